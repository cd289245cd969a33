package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"time"
)

const (
	// maxKeys is the maximum number of keys in one source: a token that names none is tried with each.
	maxKeys = 64
	// maxKeyBytes is the maximum size of one source.
	maxKeyBytes = 256 << 10
	// fetchTimeout is the time limit for reading all sources.
	fetchTimeout = 5 * time.Second
)

// Source is a source of keys. A Keyring reads it again from time to time.
type Source struct {
	name string
	load func(ctx context.Context) ([]Key, error)
	near bool // cheap enough to check all the time
}

// Text returns a constant source: PEM, a JWK or a JWK Set, for example from the environment. The name is for
// error messages.
func Text(name, text string) Source {
	return Source{name: name, load: func(context.Context) ([]Key, error) { return ParseKeys([]byte(text)) }}
}

// File returns a source that reads a file with PEM, a JWK or a JWK Set.
func File(path string) Source {
	return Source{name: path, near: true, load: func(context.Context) ([]Key, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readKeys(f)
	}}
}

// URL returns a source that fetches an issuer's JWK Set. The address must be https, or http on this machine.
// Redirects are not followed. Secret keys are refused, because anybody can fetch them. A nil transport means
// one with the environment's proxy.
func URL(address string, transport http.RoundTripper) (Source, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return Source{}, fmt.Errorf("%.200q is not an https URL", address)
	}
	if transport == nil {
		transport = &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true} // requests are rare
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return Source{name: address, load: func(ctx context.Context) ([]Key, error) { return fetch(ctx, client, address) }}, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func fetch(ctx context.Context, client *http.Client, address string) ([]Key, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("http status %d", resp.StatusCode)
	}
	keys, err := readKeys(resp.Body)
	for _, k := range keys {
		if k.Algorithm == HS256 {
			return nil, errors.New("it publishes a secret key")
		}
	}
	return keys, err
}

func readKeys(r io.Reader) ([]Key, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxKeyBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeyBytes {
		return nil, fmt.Errorf("read keys: more than %d bytes", maxKeyBytes)
	}
	return ParseKeys(text)
}

// KeyringConfig configures NewKeyring. Only Sources is required.
type KeyringConfig struct {
	Sources []Source
	// Refresh is the age of the keys after which Run or the next token causes the sources to be read again,
	// which removes withdrawn keys. Defaults to 5 min.
	Refresh time.Duration
	// Watch is how often Run reads files. Defaults to 1 s.
	Watch time.Duration
	// Pause is the minimum time between two readings, however many tokens name unknown keys. Defaults to 10 s.
	Pause time.Duration
	// Logger receives a message about a source that cannot be read. Defaults to none.
	Logger *slog.Logger
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Keyring holds the keys of its sources. It reads the sources again when a token names an unknown key, and
// after KeyringConfig.Refresh; while Run runs, it reads files every KeyringConfig.Watch. If a source cannot be
// read, its old keys stay.
type Keyring struct {
	cfg KeyringConfig

	mu      sync.Mutex // guards the fields below
	keys    [][]Key    // by source
	there   map[fingerprint]struct{}
	failing bool // a file could not be read; logged once
	loaded  time.Time
	tried   time.Time
	reading chan struct{} // closed when the read in progress ends; nil if there is none
}

// NewKeyring returns a keyring without keys. Load reads them.
func NewKeyring(cfg KeyringConfig) *Keyring {
	if cfg.Refresh == 0 {
		cfg.Refresh = 5 * time.Minute
	}
	if cfg.Watch == 0 {
		cfg.Watch = time.Second
	}
	if cfg.Pause == 0 {
		cfg.Pause = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Keyring{cfg: cfg, keys: make([][]Key, len(cfg.Sources))}
}

// Load reads all sources for the first time. Each of them must have keys.
func (k *Keyring) Load(ctx context.Context) error {
	if len(k.cfg.Sources) == 0 {
		return errors.New("load keys: no sources are configured")
	}
	keys, err := k.read(ctx)
	if err != nil {
		return fmt.Errorf("load keys: %w", err)
	}
	k.take(keys)
	return nil
}

// read reads all sources. The keys of a source that cannot be read are nil.
func (k *Keyring) read(ctx context.Context) ([][]Key, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	keys := make([][]Key, len(k.cfg.Sources))
	var errs []error
	for i, source := range k.cfg.Sources {
		var err error
		if keys[i], err = source.load(ctx); err != nil {
			keys[i] = nil
			errs = append(errs, fmt.Errorf("%s: %w", source.name, err))
		}
	}
	return keys, errors.Join(errs...)
}

// Run reads changed files, and all sources when the keys are old, until ctx is done.
func (k *Keyring) Run(ctx context.Context) {
	tick := time.NewTicker(k.cfg.Watch)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if k.isOld() {
			k.refresh(ctx, false)
		} else {
			k.watch(ctx)
		}
	}
}

// watch reads the near sources.
func (k *Keyring) watch(ctx context.Context) {
	keys, failed := make([][]Key, len(k.cfg.Sources)), error(nil)
	for i, source := range k.cfg.Sources {
		if !source.near {
			continue
		}
		var err error
		if keys[i], err = source.load(ctx); err != nil {
			keys[i], failed = nil, fmt.Errorf("%s: %w", source.name, err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if failed != nil && !k.failing {
		k.cfg.Logger.Warn("cannot read keys again, keeping the current ones", "error", failed)
	}
	k.failing = failed != nil
	k.replace(keys)
}

func (k *Keyring) take(keys [][]Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.replace(keys)
	k.loaded = k.cfg.Now()
	k.tried = k.loaded
}

// replace takes over the keys of the sources that could be read. The caller holds mu.
func (k *Keyring) replace(keys [][]Key) {
	there := map[fingerprint]struct{}{}
	for i := range k.keys {
		if keys[i] != nil {
			k.keys[i] = keys[i]
		}
		for _, key := range k.keys[i] {
			there[key.fingerprint] = struct{}{}
		}
	}
	k.there = there
}

// has reports whether a key is still in the keyring. It does no I/O.
func (k *Keyring) has(key fingerprint) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, there := k.there[key]
	return there
}

// find returns the keys that may have signed a token with this header. All of them are for its algorithm.
func (k *Keyring) find(ctx context.Context, head header) []Key {
	keys, known := k.match(head)
	if known && !k.isOld() {
		return keys
	}
	k.refresh(ctx, !known)
	keys, _ = k.match(head)
	return keys
}

func (k *Keyring) isOld() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cfg.Now().Sub(k.loaded) >= k.cfg.Refresh
}

// match searches the loaded keys. Keys with the token's id come first; known reports whether there are any. Then come
// keys without an id, which match any: an issuer may give an id to a key that is known here only as PEM.
func (k *Keyring) match(head header) (keys []Key, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var nameless []Key
	for _, set := range k.keys {
		for _, key := range set {
			switch {
			case key.Algorithm != head.algorithm:
			case head.keyID == "" || key.ID == head.keyID:
				keys = append(keys, key)
			case key.ID == "":
				nameless = append(nameless, key)
			}
		}
	}
	if len(keys) > 0 {
		return keys, true
	}
	return nameless, false
}

// refresh reads the sources again, unless that was done just now. One caller does it; others may wait for it.
func (k *Keyring) refresh(ctx context.Context, wait bool) {
	k.mu.Lock()
	if reading := k.reading; reading != nil {
		k.mu.Unlock()
		if !wait {
			return
		}
		select {
		case <-reading:
		case <-ctx.Done():
		}
		return
	}
	if k.cfg.Now().Sub(k.tried) < k.cfg.Pause {
		k.mu.Unlock()
		return
	}
	k.tried = k.cfg.Now()
	reading := make(chan struct{})
	k.reading = reading
	k.mu.Unlock()

	keys, err := k.read(context.WithoutCancel(ctx)) // other callers wait for it too
	if err != nil {
		k.cfg.Logger.Warn("cannot read keys again, keeping the current ones", "error", err)
	}
	k.take(keys)
	k.mu.Lock()
	k.reading = nil
	k.mu.Unlock()
	close(reading)
}
