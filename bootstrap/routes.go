package bootstrap

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/canopysync/canopy/realtime/wire"
)

// routes uses echo only to find the handler and the room's name; handlers are plain http.Handlers.
func (s *Server) routes() http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = s.routingError
	for path, h := range s.table() {
		e.GET(path, s.plain(path, h))
	}
	return s.cfg.Middleware(s.bodiless(e))
}

// bodiless refuses requests with a body. No route uses one, and net/http reads it before answering, so a client that
// sends it slowly, or never, could keep its connection open forever.
func (s *Server) bodiless(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		s.metrics.request("other", http.StatusBadRequest)
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.HeaderTimeout))
		s.allowWrite(w)
		w.Header().Set("Connection", "close")
		wire.WriteError(w, http.StatusBadRequest, wire.NewError(wire.CodeBadRequest, "the request must not have a body"))
	})
}

// table maps routes to handlers; openapi.yaml describes each.
func (s *Server) table() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"/v1/rooms/:room/snapshot": s.inRoom(s.snapshot),
		"/v1/rooms/:room/stats":    s.inRoom(s.stats),
		"/healthz":                 s.healthz,
		"/readyz":                  s.readyz,
		"/metrics":                 promhttp.HandlerFor(s.cfg.Registry, promhttp.HandlerOpts{}).ServeHTTP,
		"/openapi.yaml":            s.openAPI,
	}
}

// openAPI describes the routes for authors of clients.
//
//go:embed openapi.yaml
var openAPI string

func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = io.WriteString(w, openAPI) // the peer is gone if this fails
}

// plain wraps a handler for echo: it sets the room as path value and a write deadline (which slow answers extend), and
// counts the request. A panic affects only its own request.
func (s *Server) plain(path string, h http.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r, w := c.Request(), c.Response()
		defer func() {
			s.metrics.request(path, w.Status)
			if cause := recover(); cause != nil {
				s.panicked(r, cause)
			}
		}()
		s.allowWrite(w)
		wire.SetRoute(r, path, c.ParamNames(), c.ParamValues())
		h(w, r)
		return nil
	}
}

// allowWrite gives the client StallTimeout from now to accept the answer. If the ResponseWriter has no deadlines, they
// are the business of whoever provided it.
func (s *Server) allowWrite(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.cfg.StallTimeout))
}

// panicked aborts the response. A handler requests that with http.ErrAbortHandler.
func (s *Server) panicked(r *http.Request, cause any) {
	if cause != http.ErrAbortHandler {
		s.metrics.panics.Inc()
		s.cfg.Logger.Error("panic", "cause", cause, "path", r.URL.Path, "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}

// routingError answers requests that match no route, or whose method the route does not have.
func (s *Server) routingError(err error, c echo.Context) {
	status := http.StatusInternalServerError
	if he, ok := errors.AsType[*echo.HTTPError](err); ok {
		status = he.Code
	}
	s.metrics.request("other", status)
	wire.WriteError(c.Response(), status, wire.NewError(wire.CodeBadRequest, "%s", http.StatusText(status)))
}

// inRoom passes a request on if the room's name is valid and the token may read the room.
func (s *Server) inRoom(h func(w http.ResponseWriter, r *http.Request, room string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		room := r.PathValue("room")
		err := wire.ValidRoom(room)
		if err == nil {
			err = s.authorize(r, room)
		}
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		h(w, r, room)
	}
}

func (s *Server) authorize(r *http.Request, room string) error {
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.RequestTimeout)
	defer cancel()
	return s.cfg.Authorize(ctx, bearer(r), room)
}

// bearer returns the request's token, empty if there is none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// refuse answers with an error. Details not meant for clients go to the log.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := wire.AsError(err)
	status := e.Code.HTTPStatus()
	if errors.Is(err, wire.ErrUnknownRoom) {
		status = http.StatusNotFound
	}
	if isFault(err) && r.Context().Err() == nil {
		s.cfg.Logger.Error("request failed", "path", r.URL.Path, "error", err)
	}
	s.allowWrite(w)
	wire.WriteError(w, status, e)
}

// isFault reports whether the source failed rather than refused.
func isFault(err error) bool {
	return wire.AsError(err).Code == wire.CodeInternal || errors.Is(err, wire.ErrUnavailable)
}

func (s *Server) stats(w http.ResponseWriter, r *http.Request, room string) {
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.RequestTimeout)
	defer cancel()
	select { // else frequent requests could take all of the source's connections
	case s.counts <- struct{}{}:
		defer func() { <-s.counts }()
	case <-ctx.Done():
		s.refuse(w, r, wire.NewError(wire.CodeBusy, "too many requests for statistics at a time: try again later"))
		return
	}
	stats, err := s.cfg.Source.Stats(ctx, room)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.writeJSON(w, stats)
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	s.writeJSON(w, map[string]string{"status": "ok"})
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.RequestTimeout)
	defer cancel()
	if s.draining.Load() {
		s.refuse(w, r, wire.NewError(wire.CodeBusy, "the server is stopping"))
		return
	}
	if err := s.cfg.Source.Ready(ctx); err != nil {
		s.cfg.Logger.Warn("not ready", "error", err)
		s.refuse(w, r, wire.NewError(wire.CodeBusy, "the database is not ready"))
		return
	}
	s.writeJSON(w, map[string]string{"status": "ready"})
}

func (s *Server) writeJSON(w http.ResponseWriter, body any) {
	s.allowWrite(w)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(body) // if this fails the peer is gone, with nobody left to tell
}
