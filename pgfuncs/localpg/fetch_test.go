//go:build unix

package localpg

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// repository stands in for the Maven repository.
type repository struct {
	jar       []byte
	sum       string
	downloads atomic.Int32
}

func (r *repository) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !strings.HasPrefix(req.URL.Path, "/io/zonky/test/postgres/embedded-postgres-binaries-") {
		http.NotFound(w, req)
		return
	}
	switch {
	case strings.HasSuffix(req.URL.Path, ".jar.sha256"):
		fmt.Fprint(w, r.sum)
	case strings.HasSuffix(req.URL.Path, ".jar"):
		r.downloads.Add(1)
		_, _ = w.Write(r.jar)
	default:
		http.NotFound(w, req)
	}
}

// publish makes a repository whose archive holds the given scripts under bin.
func publish(t *testing.T, scripts map[string]string) *repository {
	t.Helper()
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	for name, script := range scripts {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: "bin/" + name, Mode: 0o700, Size: int64(len(script))}
		if err := tw.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(script)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	zw := zip.NewWriter(&jar)
	w, err := zw.Create("postgres-linux-x86_64.txz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(xzStored(archive.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(jar.Bytes())
	return &repository{jar: jar.Bytes(), sum: hex.EncodeToString(sum[:])}
}

// versionScripts only know their version.
func versionScripts() map[string]string {
	script := "#!/bin/sh\necho 'postgres (PostgreSQL) 17.5'\n"
	return map[string]string{"postgres": script, "initdb": script, "pg_ctl": script}
}

// serve runs h as a repository, and is the configuration to fetch from it.
func serve(t *testing.T, h http.Handler) Config {
	t.Helper()
	// For the log file that the library leaves behind.
	t.Setenv("TMPDIR", worldDir(t))
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	cfg := Config{DataDir: filepath.Join(worldDir(t), "data"), CacheDir: filepath.Join(worldDir(t), "cache"), Repository: server.URL}
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestFetch(t *testing.T) {
	repo := publish(t, versionScripts())
	cfg := serve(t, repo)
	a := testAccount(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			inst, err := fetch(t.Context(), a, cfg, 0)
			if err != nil || inst.version != (Version{17, 5}) {
				t.Errorf("fetched %v, %v", inst, err)
			}
		})
	}
	wg.Wait()
	if n := repo.downloads.Load(); n != 1 {
		t.Errorf("%d downloads, want 1", n)
	}
	assertOnly(t, cfg.CacheDir, "fetch.lock", "postgresql-17.5.0")
}

func TestFetchedServerRuns(t *testing.T) {
	a := testAccount(t)
	real, err := choose(t.Context(), a, Config{CacheDir: DefaultCacheDir()}, finder{path: os.Getenv("PATH"), places: usualPlaces}, 0)
	if err != nil {
		t.Fatal(err)
	}
	scripts := make(map[string]string)
	for _, name := range []string{"postgres", "initdb", "pg_ctl"} {
		scripts[name] = fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", real.program(name))
	}
	cfg := serve(t, publish(t, scripts))
	cfg.Volatile = true
	server := &Server{cfg: cfg} // which finds nothing installed
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFetchRefuses(t *testing.T) {
	good := publish(t, versionScripts())
	for name, h := range map[string]http.Handler{
		"not found":      http.NotFoundHandler(),
		"wrong checksum": &repository{jar: good.jar, sum: strings.Repeat("0", 64)},
		"not an archive": &repository{jar: []byte("sorry"), sum: sumOf("sorry")},
		"incomplete":     publish(t, map[string]string{"postgres": "", "pg_ctl": ""}),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := serve(t, h)
			_, err := fetch(t.Context(), testAccount(t), cfg, 0)
			if !errors.Is(err, ErrNoPostgres) {
				t.Fatalf("answer %v", err)
			}
			again := httptest.NewServer(good)
			defer again.Close()
			cfg.Repository = again.URL
			if _, err := fetch(t.Context(), testAccount(t), cfg, 0); err != nil {
				t.Fatalf("after a failure: %v", err)
			}
			assertOnly(t, cfg.CacheDir, "fetch.lock", "postgresql-17.5.0")
		})
	}
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func TestFetchWithoutARepository(t *testing.T) {
	t.Parallel()
	cfg := Config{Repository: noRepository, CacheDir: t.TempDir()}
	if _, err := fetch(t.Context(), testAccount(t), cfg, 0); !errors.Is(err, ErrNoPostgres) {
		t.Errorf("answer %v", err)
	}
}

func TestFetchOfAnUnpublishedVersion(t *testing.T) {
	t.Parallel()
	if _, err := fetch(t.Context(), testAccount(t), Config{CacheDir: t.TempDir()}, 99); !errors.Is(err, ErrNoPostgres) {
		t.Errorf("answer %v", err)
	}
}

func TestFetchGivesUp(t *testing.T) {
	asked, hangUp := make(chan struct{}, 2), make(chan struct{})
	cfg := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-hangUp
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	_, err := fetch(ctx, testAccount(t), cfg, 0)
	close(hangUp)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("answer %v", err)
	}
}

func assertOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}
