package realtime

import "strings"

// Routes lists methods and paths, as openapi.yaml writes them.
func (s *Server) Routes() (routes []string) {
	for _, r := range s.table() {
		routes = append(routes, r.method+" "+strings.Replace(r.path, ":room", "{room}", 1))
	}
	return routes
}
