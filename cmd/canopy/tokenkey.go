package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/canopysync/canopy/realtime/auth"
)

type tokenKeygenCmd struct {
	Alg    string `default:"EdDSA" enum:"EdDSA,ES256,RS256,HS256" help:"Algorithm: EdDSA (the default), ES256, RS256 or HS256."`
	Output string `short:"o" required:"" placeholder:"FILE" help:"New file for the private key, readable only by you; - for standard output."`
	Public string `placeholder:"FILE" help:"Write the public key here, for the services; - for standard output."`
	jsonFlag
}

// Help is the command's long help.
func (*tokenKeygenCmd) Help() string {
	return `Keys are JWKs. The services need only the public key. HS256 has none: whoever can check its tokens can issue them.

Example:

    canopy token keygen -o key.json --public keys.json
    canopy serve realtime --auth-key-file keys.json …
    canopy token mint ann --room 'team-*=write' --signing-key key.json …`
}

// keygenResult is what --json prints.
type keygenResult struct {
	ID      string `json:"kid"`
	Alg     string `json:"alg"`
	Private string `json:"private"` // files
	Public  string `json:"public,omitempty"`
}

func (c *tokenKeygenCmd) Run(_ context.Context, env *Env) error {
	if err := c.check(); err != nil {
		return err
	}
	key, err := auth.GenerateKey(c.Alg, nil)
	if err != nil {
		return err
	}
	private, err := key.MarshalPrivate()
	if err != nil {
		return err
	}
	if err := c.write(env, private, key); err != nil {
		return err
	}
	if c.Output == "-" || c.Public == "-" {
		return nil // a key has the place of a report
	}
	return c.print(env, keygenResult{key.ID, key.Algorithm, c.Output, c.Public}, func() {
		fmt.Fprintf(env.Stdout, "%s: a key for %s with the id %s\n", c.Output, key.Algorithm, key.ID)
	})
}

func (c *tokenKeygenCmd) check() error {
	switch {
	case c.Output == "":
		return usagef("--output: the name of the file to write is empty")
	case c.Public != "" && c.Alg == auth.HS256:
		return usagef("--public: a key for HS256 has no public part")
	case c.Public != "" && filepath.Clean(c.Public) == filepath.Clean(c.Output):
		return usagef("--output and --public are the same file")
	}
	return nil
}

// write writes the keys that were asked for: both, or none.
func (c *tokenKeygenCmd) write(env *Env, private []byte, key auth.Key) error {
	if c.Output == "-" {
		if err := writeLine(env.Stdout, private); err != nil {
			return err
		}
	} else if err := writeSecret(c.Output, private); err != nil {
		return err
	}
	if c.Public == "" {
		return nil
	}
	public, err := key.MarshalPublic()
	if err == nil {
		err = writeOutput(env, c.Public, func(w io.Writer) error { return writeLine(w, public) })
	}
	if err != nil && c.Output != "-" {
		_ = os.Remove(c.Output) // it is new, and nothing was signed with it
	}
	return err
}

func writeLine(w io.Writer, text []byte) error {
	_, err := w.Write(append(text, '\n'))
	return err
}

// writeSecret makes a file that only its owner can read. One that is there may be in use: it stays.
func writeSecret(path string, text []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if os.IsExist(err) {
		return usagef("%s already exists", path)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	if err := writeLine(f, text); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
