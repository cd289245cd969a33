package main

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/canopysync/canopy/realtime/wire"
)

type middleware = func(http.Handler) http.Handler

// localOnly wraps a service without authentication; inside may be nil. It refuses requests whose Host is not a name of
// this machine or of its operator: any page could make its own name point here (DNS rebinding), and then read every
// room, because requests to a page's own host carry no Origin.
func localOnly(names []string, inside middleware) middleware {
	return func(next http.Handler) http.Handler {
		if inside != nil {
			next = inside(next)
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if isLocal(r.Host) || slices.Contains(names, hostname(r.Host)) {
				next.ServeHTTP(w, r)
				return
			}
			_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // nobody waits for its body
			wire.WriteError(w, http.StatusForbidden, wire.NewError(wire.CodeForbidden,
				"without authentication the host is called localhost, 127.0.0.1 or ::1, not %.200q", r.Host))
		})
	}
}

// isLocal reports whether nobody can make a name point elsewhere. An empty name is local too: no browser sends it.
func isLocal(hostport string) bool {
	host := hostname(hostport)
	ip, err := netip.ParseAddr(host)
	return host == "" || host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// hostname is a host without its port, in lower case.
func hostname(hostport string) string {
	return strings.ToLower((&url.URL{Host: hostport}).Hostname())
}

// namesIn returns the hosts that the operator has named in the address to listen on and the origins to allow.
func namesIn(addr string, origins []string) []string {
	var names []string
	if host, _, err := net.SplitHostPort(addr); err == nil {
		names = append(names, strings.ToLower(host))
	}
	for _, origin := range origins {
		if u, err := url.Parse(origin); err == nil {
			names = append(names, strings.ToLower(u.Hostname()))
		}
	}
	return names
}
