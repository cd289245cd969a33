package bootstrap

import "strings"

// Routes lists methods and paths, as openapi.yaml writes them.
func (s *Server) Routes() (routes []string) {
	for path := range s.table() {
		routes = append(routes, "GET "+strings.Replace(path, ":room", "{room}", 1))
	}
	return routes
}
