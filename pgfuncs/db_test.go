package pgfuncs_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/canopysync/canopy/pgfuncs"
)

// Where something listens that does not answer, connecting ends.
func TestConnectingTakesNotForEver(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]time.Duration{"postgres://db/canopy": 10 * time.Second, "postgres://db/canopy?connect_timeout=3": 3 * time.Second} {
		var got time.Duration
		db, err := pgfuncs.Open(t.Context(), url, func(config *pgxpool.Config) { got = config.ConnConfig.ConnectTimeout })
		if err != nil {
			t.Fatal(err)
		}
		db.Close()
		if got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}
