package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

// connectTimeout is the time for a service to begin its answer.
const connectTimeout = 30 * time.Second

type realtimeFlag struct {
	RealtimeURL string `default:"${realtime_url}" envar:"CANOPY_REALTIME_URL" placeholder:"URL" help:"The realtime service: ${realtime_url} by default."`
}

type bootstrapFlag struct {
	BootstrapURL string `default:"${bootstrap_url}" envar:"CANOPY_BOOTSTRAP_URL" placeholder:"URL" help:"The bootstrap service: ${bootstrap_url} by default."`
}

type tokenFlag struct {
	Token string `envar:"CANOPY_TOKEN" placeholder:"TOKEN" help:"Token for the services. Others may see the command line: better use the variable."`
}

// source is the token as a client asks for it, nil where there is none.
func (f tokenFlag) source() func(context.Context) (string, error) {
	if f.Token == "" {
		return nil
	}
	return func(context.Context) (string, error) { return f.Token, nil }
}

// service is the HTTP side of one of the two services.
type service struct {
	flag, base string
	token      string // empty for none
	http       *http.Client
}

// newService checks the URL that a flag gave.
func newService(flag, base, token string) (service, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return service{}, usagef("%s %q is not of the form http://host:port", flag, base)
	}
	return service{flag, strings.TrimRight(base, "/"), token, &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DisableKeepAlives:     true, // one command, one or two requests
		ResponseHeaderTimeout: connectTimeout,
	}}}, nil
}

func (f realtimeFlag) service(t tokenFlag) (service, error) {
	return newService("--realtime-url", f.RealtimeURL, t.Token)
}

func (f bootstrapFlag) service(t tokenFlag) (service, error) {
	return newService("--bootstrap-url", f.BootstrapURL, t.Token)
}

// authorize adds the token, if there is one, to a request's header.
func (s service) authorize(header http.Header) {
	if s.token != "" {
		header.Set("Authorization", "Bearer "+s.token)
	}
}

// do sends a request and returns whatever the service answers; the caller closes the body.
func (s service) do(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+path, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	s.authorize(req.Header)
	resp, err := s.http.Do(req)
	if err != nil && ctx.Err() == nil {
		err = unavailable(fmt.Errorf("%w (is the service running? see %s)", err, s.flag))
	}
	return resp, err
}

// inRoom requests something of a room and returns a response with status 200; the caller closes the body.
func (s service) inRoom(ctx context.Context, room, path string, header http.Header) (*http.Response, error) {
	if err := checkRoom(room); err != nil {
		return nil, err
	}
	resp, err := s.do(ctx, "/v1/rooms/"+room+path, header)
	if err != nil || resp.StatusCode == http.StatusOK {
		return resp, err
	}
	defer resp.Body.Close()
	refusal := wire.ReadError(resp)
	switch {
	case resp.StatusCode != http.StatusNotFound:
		return nil, refusal
	case refusal.Code == wire.CodeForbidden: // no proxy's page
		return nil, fmt.Errorf("%w: %s", wire.ErrUnknownRoom, room)
	}
	return nil, fmt.Errorf("%s does not know %s: is it the service of %s?", s.base, resp.Request.URL.Path, s.flag)
}

// ready checks that the service is there and serving.
func (s service) ready(ctx context.Context) error {
	resp, err := s.do(ctx, "/readyz", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return unavailable(fmt.Errorf("%s: %w", s.base, wire.ReadError(resp)))
	}
	return nil
}

// position returns where a room's log ends now, without reading any of it.
func (s service) position(ctx context.Context, room string) (wire.OpsHeader, error) {
	var header wire.OpsHeader
	resp, err := s.inRoom(ctx, room, "/ops?limit=1&after=9007199254740991", nil)
	if err != nil {
		return header, err
	}
	defer resp.Body.Close()
	return header, decode(resp.Body, &header)
}

func (s service) stats(ctx context.Context, room string) (wire.Stats, error) {
	var stats wire.Stats
	resp, err := s.inRoom(ctx, room, "/stats", nil)
	if err != nil {
		return stats, err
	}
	defer resp.Body.Close()
	return stats, decode(resp.Body, &stats)
}

func decode(body io.Reader, v any) error {
	if err := json.NewDecoder(body).Decode(v); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

func checkRoom(room string) error {
	if err := wire.ValidRoom(room); err != nil {
		return usagef("%v", err)
	}
	return nil
}
