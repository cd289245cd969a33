//go:build unix

package localpg

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// DefaultDataDir is where a program without a wish of its own keeps its data: a system directory for
// root, because the user who runs the server for him must get there, which /root forbids; and the
// user's data directory for everybody else.
func DefaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/canopy"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "canopy")
	}
	home, err := os.UserHomeDir()
	switch {
	case err != nil:
		return filepath.Join(os.TempDir(), fmt.Sprintf("canopy-%d", os.Geteuid()))
	case runtime.GOOS == "darwin":
		return filepath.Join(home, "Library", "Application Support", "canopy")
	}
	return filepath.Join(home, ".local", "share", "canopy")
}

// DefaultCacheDir is where fetched binaries are kept: a system directory for root, for the same
// reason, and the user's cache directory for everybody else.
func DefaultCacheDir() string {
	if os.Geteuid() == 0 {
		return "/var/cache/canopy"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(os.TempDir(), fmt.Sprintf("canopy-cache-%d", os.Geteuid()))
	}
	return filepath.Join(dir, "canopy")
}
