package bootstrap_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
	"github.com/canopysync/canopy/realtime/wire"
	"github.com/canopysync/canopy/realtime/wire/apitest"
)

func TestEveryRouteIsDescribed(t *testing.T) {
	t.Parallel()
	f := setup(t, bootstrap.Config{})
	text := string(body(t, f.get(t, "/openapi.yaml")))
	apitest.CheckOpenAPI(t, text)
	srv, err := bootstrap.New(bootstrap.Config{Source: &source{snapshot: formattest.Sample()}})
	if err != nil {
		t.Fatal(err)
	}
	routes := srv.Routes()
	slices.Sort(routes)
	if got := apitest.Open(t, map[string]string{"openapi.yaml": text}).Routes("openapi.yaml"); !slices.Equal(got, routes) {
		t.Errorf("described are %v, there are %v", got, routes)
	}
}

func TestAnswersAreAsDescribed(t *testing.T) {
	t.Parallel()
	src := &source{snapshot: formattest.Sample()}
	f := setup(t, bootstrap.Config{Source: src, Authorize: func(_ context.Context, token, _ string) error {
		switch token {
		case "good":
			return nil
		case "broken":
			return errors.New("broken")
		}
		return wire.NewError(wire.CodeUnauthorized, "no")
	}})
	docs := apitest.Open(t, map[string]string{"openapi.yaml": string(body(t, f.get(t, "/openapi.yaml")))})
	for _, tc := range []struct {
		path, token, coding string
		status              int
	}{
		{"/v1/rooms/garden/snapshot", "good", "", 200}, {"/v1/rooms/garden/snapshot", "good", "zstd", 200},
		{"/v1/rooms/garden/snapshot", "", "", 401}, {"/v1/rooms/forest/snapshot", "good", "", 404}, {"/v1/rooms/%67arden/snapshot", "good", "", 200},
		{"/v1/rooms/NO/snapshot", "good", "", 400}, {"/v1/rooms/garden/snapshot", "good", "gzip, *;q=0", 406},
		{"/v1/rooms/garden/snapshot", "broken", "", 500},
		{"/v1/rooms/garden/stats", "good", "", 200}, {"/v1/rooms/garden/stats", "", "", 401},
		{"/v1/rooms/forest/stats", "good", "", 404}, {"/v1/rooms/garden/stats", "broken", "", 500},
		{"/healthz", "", "", 200}, {"/readyz", "", "", 200}, {"/metrics", "", "", 200}, {"/openapi.yaml", "", "", 200},
	} {
		resp := f.get(t, tc.path, "Authorization", "Bearer "+tc.token, "Accept-Encoding", tc.coding)
		if resp.StatusCode != tc.status {
			t.Errorf("%s: status %d, want %d", tc.path, resp.StatusCode, tc.status)
		}
		route := "GET " + strings.NewReplacer("%67arden", "{room}", "garden", "{room}", "forest", "{room}", "NO", "{room}").Replace(tc.path)
		if err := docs.Answers("openapi.yaml", route, resp.StatusCode, resp.Header.Get("Content-Type"), body(t, resp)); err != nil {
			t.Errorf("%s: %v", tc.path, err)
		}
	}
	down := setup(t, bootstrap.Config{Source: &source{snapshot: src.snapshot, ready: errors.New("down")}})
	resp := down.get(t, "/readyz")
	if err := docs.Answers("openapi.yaml", "GET /readyz", http.StatusServiceUnavailable, resp.Header.Get("Content-Type"), body(t, resp)); err != nil {
		t.Error(err)
	}
}
