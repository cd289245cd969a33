package client_test

import (
	"testing"

	"github.com/canopysync/canopy/pgfuncs/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
