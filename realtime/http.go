package realtime

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/canopysync/canopy/realtime/wire"
)

// routes is the only place that knows Echo: it routes, everything else is a plain http.Handler.
func (s *Server) routes() http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) { s.routeError(err, c.Response()) }
	for _, r := range s.table() {
		e.Add(r.method, r.path, s.route(r.path, r.handler))
	}
	return s.patient(s.recoverer(s.cfg.Middleware(s.sameOrigin(e))))
}

// patient gives the peer Timing.Lag to receive each part of a response: a peer that does not read would otherwise
// hold the connection and the data for ever.
func (s *Server) patient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &response{ResponseWriter: w, conn: http.NewResponseController(w), patience: s.cfg.Timing.Lag}
		a.wait() // the deadline is that of the connection's last answer
		next.ServeHTTP(a, r)
	})
}

type response struct {
	http.ResponseWriter
	conn     *http.ResponseController
	patience time.Duration
}

func (r *response) wait() {
	_ = r.conn.SetWriteDeadline(time.Now().Add(r.patience)) // where somebody else serves there may be none
}

// responsePart is the maximum number of bytes under one deadline.
const responsePart = 64 << 10

func (r *response) Write(p []byte) (written int, err error) {
	for part := range slices.Chunk(p, responsePart) {
		r.wait()
		n, err := r.ResponseWriter.Write(part)
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

// Hijack lets go of the connection, without a deadline, for a socket.
func (r *response) Hijack() (net.Conn, *bufio.ReadWriter, error) { return r.conn.Hijack() }

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// endpoint is a route; openapi.yaml describes each.
type endpoint struct {
	method, path string
	handler      http.HandlerFunc
}

func (s *Server) table() []endpoint {
	return []endpoint{
		{"GET", "/v1/rooms/:room/ws", s.inRoom(s.serveSocket)},
		{"GET", "/v1/rooms/:room/ops", s.inRoom(s.getOps)},
		{"POST", "/v1/rooms/:room/ops", s.inRoom(s.postOps)},
		{"GET", "/v1/rooms/:room/children", s.inRoom(s.getChildren)},
		{"GET", "/v1/rooms/:room/subtree", s.inRoom(s.getSubtree)},
		{"GET", "/v1/rooms/:room/stats", s.inRoom(s.getStats)},
		{"GET", "/v1/rooms/:room/buckets", s.inRoom(s.getBuckets)},
		{"GET", "/v1/rooms/:room/buckets/ops", s.inRoom(s.getBucketOps)},
		{"GET", "/healthz", healthz},
		{"GET", "/readyz", s.readyz},
		{"GET", "/metrics", promhttp.HandlerFor(s.cfg.Registry, promhttp.HandlerOpts{}).ServeHTTP},
		{"GET", "/openapi.yaml", serveYAML(openAPI)},
		{"GET", "/asyncapi.yaml", serveYAML(asyncAPI)},
	}
}

// The descriptions of routes and messages, for whoever writes a client.
var (
	//go:embed openapi.yaml
	openAPI string
	//go:embed asyncapi.yaml
	asyncAPI string
)

func serveYAML(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = io.WriteString(w, text) // the peer is gone if this fails
	}
}

// route hands Echo's path parameters on, and counts.
func (s *Server) route(path string, h http.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		wire.SetRoute(r, path, c.ParamNames(), c.ParamValues())
		h(c.Response(), r)
		s.metrics.requests.WithLabelValues(path, strconv.Itoa(c.Response().Status)).Inc()
		return nil
	}
}

// routeError answers what no route took.
func (s *Server) routeError(err error, w http.ResponseWriter) {
	status := http.StatusInternalServerError
	if he, ok := errors.AsType[*echo.HTTPError](err); ok {
		status = he.Code
	}
	code := wire.CodeBadRequest
	if status >= 500 {
		code = wire.CodeInternal
	}
	wire.WriteError(w, status, wire.NewError(code, "%s", strings.ToLower(http.StatusText(status))))
}

// recoverer answers 500 for a handler that panicked, where it still can.
func (s *Server) recoverer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v) // net/http's own way of cutting an answer short
			}
			s.metrics.panics.Inc()
			s.cfg.Logger.Error("panic", "path", r.URL.Path, "value", fmt.Sprint(v), "stack", string(debug.Stack()))
			fail(w, wire.NewError(wire.CodeInternal, "internal error"))
		}()
		next.ServeHTTP(w, r)
	})
}

// sameOrigin refuses requests that a browser sends for a page of another site: upgrades, which browsers do not block
// themselves, and simple posts, which reach a service without authentication too.
func (s *Server) sameOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.originAllowed(r) {
			fail(w, wire.NewError(wire.CodeForbidden, "the origin %.200q is not allowed", r.Header.Get("Origin")))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) originAllowed(r *http.Request) bool {
	origins := r.Header.Values("Origin")
	if len(origins) == 0 {
		return true
	}
	if len(origins) > 1 {
		return false
	}
	if len(s.cfg.AllowedOrigins) > 0 {
		return slices.Contains(s.cfg.AllowedOrigins, origins[0])
	}
	u, err := url.Parse(origins[0])
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// roomHandler serves a request for a room whose name is well-formed, with the token's grant.
type roomHandler func(w http.ResponseWriter, r *http.Request, room string)

// inRoom checks the room's name and keeps the server from draining under the request.
func (s *Server) inRoom(h roomHandler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		leave, ok := s.enter()
		if !ok {
			fail(w, wire.NewError(wire.CodeBusy, "the server is stopping"))
			return
		}
		defer leave()
		room := r.PathValue("room")
		if err := wire.ValidRoom(room); err != nil {
			fail(w, wire.AsError(err))
			return
		}
		h(w, named(w, r, room), room)
	}
}

func healthz(w http.ResponseWriter, _ *http.Request) { writeStatus(w, "ok") }

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if s.isDraining() {
		fail(w, wire.NewError(wire.CodeBusy, "the server is stopping"))
		return
	}
	if err := s.cfg.Store.Ready(r.Context()); err != nil {
		s.cfg.Logger.Warn("not ready", "error", err)
		fail(w, wire.NewError(wire.CodeBusy, "the database is not reachable or not migrated"))
		return
	}
	writeStatus(w, "ready")
}

// bearer returns the token of the Authorization header, empty if there is none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// serveSocket upgrades the request and serves the session in a goroutine of its own: once the handler has returned,
// net/http frees the request, its buffers and a stack that has grown.
func (s *Server) serveSocket(w http.ResponseWriter, r *http.Request, room string) {
	session, release := s.openSocket(w, r, room)
	if session == nil {
		return
	}
	ctx := context.WithoutCancel(r.Context())
	s.running.Go(func() { // inRoom keeps running above 0 until here
		defer release()
		s.guard(session.log, func() { session.serve(ctx) })
	})
}

// openSocket returns the session of an upgraded request, or nil after answering the request with an error.
func (s *Server) openSocket(w http.ResponseWriter, r *http.Request, room string) (opened *session, release func()) {
	var releases []func()
	releaseAll := func() {
		for _, f := range slices.Backward(releases) {
			f()
		}
	}
	defer func() {
		if opened == nil {
			releaseAll()
		}
	}()
	codec, err := negotiate(r)
	if err != nil {
		fail(w, wire.AsError(err))
		return nil, nil
	}
	grant, admitted, err := s.admitHeader(r, room) // before anything is spent on the room
	if err != nil {
		failRoom(w, err)
		return nil, nil
	}
	give, limited := s.takeSocket(r)
	if limited != nil {
		fail(w, limited)
		return nil, nil
	}
	releases = append(releases, give)
	var h *hub
	if admitted {
		if h, err = s.letIn(r.Context(), room, grant); err != nil {
			failRoom(w, err)
			return nil, nil
		}
	}
	conn, err := s.upgrader(codec).Upgrade(w, r, nil)
	if err != nil { // which Upgrade has answered
		if h != nil {
			s.release(h)
		}
		return nil, nil
	}
	session := newSession(s, conn, codec, room, s.logOf(r.Context()))
	if admitted {
		session.grant, session.admitted = grant, true
		session.goIn(h)
	}
	s.add(session)
	releases = append(releases, session.goOut, func() { s.remove(session) })
	return session, releaseAll
}

// admitHeader judges the token in the header; admitted is false where there is none.
func (s *Server) admitHeader(r *http.Request, room string) (grant Grant, admitted bool, err error) {
	token := bearer(r)
	if token == "" {
		return Grant{}, false, nil
	}
	grant, err = s.authorize(r.Context(), token, room)
	if err == nil && !grant.Read {
		err = wire.UnknownRoom()
	}
	return grant, err == nil, err
}

// negotiate picks the form of the messages: the first that the client offers and the server speaks,
// JSON where it offers none.
func negotiate(r *http.Request) (wire.Codec, error) {
	const header = "Sec-Websocket-Protocol"
	if lines := r.Header.Values(header); len(lines) > 1 { // are one list; websocket sees the first of them
		r.Header.Set(header, strings.Join(lines, ", "))
	}
	offers := websocket.Subprotocols(r)
	for _, name := range offers {
		if codec, ok := wire.CodecFor(name); ok {
			return codec, nil
		}
	}
	if len(offers) > 0 {
		return nil, wire.NewError(wire.CodeBadRequest, "no supported subprotocol was offered: use %s or %s", wire.SubprotocolJSON, wire.SubprotocolBinary)
	}
	return wire.JSON, nil
}

// upgrader has small read buffers, shared write buffers and no compression: sockets are many and
// mostly idle, frames shared.
func (s *Server) upgrader(codec wire.Codec) *websocket.Upgrader {
	return &websocket.Upgrader{
		ReadBufferSize:  1024,
		WriteBufferSize: 4096,
		WriteBufferPool: &s.buffers,
		Subprotocols:    []string{codec.Subprotocol()},
		CheckOrigin:     func(*http.Request) bool { return true }, // sameOrigin has
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			wire.WriteError(w, status, wire.NewError(wire.CodeBadRequest, "%s", reason.Error()))
		},
	}
}

// fail answers with the status of the error's code.
func fail(w http.ResponseWriter, e *wire.Error) { wire.WriteError(w, e.Code.HTTPStatus(), e) }

// failRoom is fail for errors about a room: unknown and invisible rooms are both 404.
func failRoom(w http.ResponseWriter, err error) {
	e := wire.AsError(err)
	if e.Code == wire.CodeForbidden {
		wire.WriteError(w, http.StatusNotFound, wire.UnknownRoom())
		return
	}
	fail(w, e)
}

func writeStatus(w http.ResponseWriter, status string) {
	writeJSON(w, map[string]string{"status": status})
}
