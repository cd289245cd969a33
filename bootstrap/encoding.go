package bootstrap

import (
	"strconv"
	"strings"
)

// coding is a content coding that a snapshot can be sent in.
type coding string

const (
	identity coding = "identity"
	zstdCode coding = "zstd"
)

// negotiate chooses the coding from a request's Accept-Encoding lines (RFC 9110, section 12.5.3). It picks zstd if they
// name it with at least the weight of identity. "*" alone does not show that the client can read zstd, so it means zstd
// only if identity is refused. ok is false if neither is acceptable.
func negotiate(lines []string) (c coding, ok bool) {
	weights := map[string]float64{}
	for item := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		if name, q, ok := parseCoding(item); ok {
			weights[name] = max(weights[name], q)
		}
	}
	rest, hasRest := weights["*"]
	zstdQ, named := weights[string(zstdCode)]
	identityQ, hasIdentity := weights[string(identity)]
	plain := hasIdentity && identityQ > 0 || !hasIdentity && (!hasRest || rest > 0)
	switch {
	case named && zstdQ > 0 && zstdQ >= identityQ:
		return zstdCode, true
	case plain:
		return identity, true
	case zstdQ > 0 || !named && rest > 0:
		return zstdCode, true
	}
	return "", false
}

// parseCoding parses "name" or "name;q=0.5". An item that is neither is ignored.
func parseCoding(item string) (name string, q float64, ok bool) {
	name, params, weighted := strings.Cut(item, ";")
	name = strings.ToLower(strings.TrimSpace(name))
	if name == "" {
		return "", 0, false
	}
	if !weighted {
		return name, 1, true
	}
	key, value, _ := strings.Cut(params, "=")
	if !strings.EqualFold(strings.TrimSpace(key), "q") {
		return "", 0, false
	}
	value = strings.TrimSpace(value)
	q, err := strconv.ParseFloat(value, 64)
	if err != nil || len(value) > len("0.000") || !(q >= 0 && q <= 1) {
		return "", 0, false
	}
	return name, q, true
}
