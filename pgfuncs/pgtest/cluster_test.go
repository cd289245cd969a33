//go:build unix

package pgtest

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/canopysync/canopy/pgfuncs/localpg"
)

func TestSweepRemovesWhatDiedLongAgo(t *testing.T) {
	t.Parallel()
	var dirs [3]string
	for i := range dirs {
		dir, err := os.MkdirTemp("", dirPattern)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		dirs[i] = dir
	}
	dead, running, young := dirs[0], dirs[1], dirs[2]
	for _, dir := range []string{dead, running} {
		server, err := localpg.Start(t.Context(), localpg.Config{DataDir: dir, Volatile: true})
		if err != nil {
			t.Fatal(err)
		}
		if dir == running {
			defer server.Stop(t.Context())
		} else if err := server.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		longAgo := time.Now().Add(-time.Hour)
		if err := os.Chtimes(dir, longAgo, longAgo); err != nil {
			t.Fatal(err)
		}
	}
	sweep(t.Context())
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead one: %v", err)
	}
	for _, dir := range []string{running, young} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}
