package proptest_test

import (
	"testing"

	"github.com/canopysync/canopy/proptest"
)

// The models run the suite against themselves: what it shows is that they make of every scenario
// what the scenario says, and that the suite's own checks hold.

func TestModelConforms(t *testing.T) {
	t.Parallel()
	proptest.Conformance(t, proptest.Suite{
		New:   func(testing.TB, proptest.Policy) proptest.Engine { return proptest.NewModel() },
		Depth: 1000,
	})
}

func TestServerConforms(t *testing.T) {
	t.Parallel()
	proptest.Conformance(t, proptest.Suite{
		New:   func(_ testing.TB, restoreOn proptest.Policy) proptest.Engine { return proptest.NewServer(restoreOn) },
		Depth: 100,
	})
}
