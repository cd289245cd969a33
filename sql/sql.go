// Package sql holds Canopy's database code: numbered migrations, which are immutable once released and run once;
// stored functions, each in a file named after it, which are all dropped and installed again whenever one of
// them changed; and the grants for the role of each service.
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

//go:embed migrations/*.sql functions/*.sql grants/*.sql
var files embed.FS

// Migration is one numbered step of the schema.
type Migration struct {
	Version int
	Name    string // the file's name without number and ending
	SQL     string
}

// Migrations returns all steps in ascending order, numbered from 1 without gaps.
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
// whenever one of them or a grant does. The functions may refer to one another in any order.
func Functions() (script, fingerprint string, err error) {
	script, err = concatenate("functions")
	if err != nil {
		return "", "", err
	}
	grants, err := concatenate("grants")
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256([]byte(script + grants))
	return script, hex.EncodeToString(sum[:]), nil
}

func concatenate(dir string) (string, error) {
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		return "", fmt.Errorf("read embedded %s: %w", dir, err)
	}
	var b strings.Builder
	for _, entry := range entries {
		text, err := files.ReadFile(path.Join(dir, entry.Name()))
		if err != nil {
			return "", fmt.Errorf("read embedded %s: %w", dir, err)
		}
		b.Write(text)
	}
	return b.String(), nil
}

// Role stands for the role's name in a script of Grants, as it does for psql.
const Role = `:"role"`

// Grants returns the script that gives a role what a service needs: realtime, bootstrap or tokens.
func Grants(service string) (string, error) {
	text, err := files.ReadFile("grants/" + service + ".sql")
	if err != nil {
		return "", fmt.Errorf("read embedded grants: %w", err)
	}
	return string(text), nil
}
