// Package sql holds Canopy's database code: numbered migrations, which are immutable once released and
// run once, and stored functions, one per file and named after it, which are dropped and installed
// again whenever one of them changed.
//
// All of Canopy's server-side CRDT logic lives in the functions; start reading at functions/apply.sql.
package sql

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql functions/*.sql
var files embed.FS

// Migration is one numbered step of the schema.
type Migration struct {
	Version int
	Name    string // the file's name without number and ending
	SQL     string
}

// Migrations returns all steps in ascending order, without a hole from 1.
func Migrations() ([]Migration, error) {
	entries, err := fs.ReadDir(files, "migrations") // sorted by name
	if err != nil {
		return nil, fmt.Errorf("read embedded migrations: %w", err)
	}
	var steps []Migration
	for i, entry := range entries {
		number, name, _ := strings.Cut(strings.TrimSuffix(entry.Name(), ".sql"), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: want number %03d", entry.Name(), i+1)
		}
		text, err := files.ReadFile(path.Join("migrations", entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("read embedded migrations: %w", err)
		}
		steps = append(steps, Migration{Version: version, Name: name, SQL: string(text)})
	}
	return steps, nil
}

// Functions returns one script that installs every stored function, and a fingerprint that changes
// whenever one of them does. The functions may refer to one another in any order.
func Functions() (script, fingerprint string, err error) {
	entries, err := fs.ReadDir(files, "functions")
	if err != nil {
		return "", "", fmt.Errorf("read embedded functions: %w", err)
	}
	var b strings.Builder
	for _, entry := range entries {
		text, err := files.ReadFile(path.Join("functions", entry.Name()))
		if err != nil {
			return "", "", fmt.Errorf("read embedded functions: %w", err)
		}
		b.Write(text)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return b.String(), hex.EncodeToString(sum[:]), nil
}
