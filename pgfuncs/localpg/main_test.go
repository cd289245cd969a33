//go:build unix

package localpg_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/canopysync/canopy/pgfuncs/localpg"
)

// helperEnv makes this test binary a program that runs a server in the directory it names, says so,
// and waits to be killed.
const helperEnv = "CANOPY_LOCALPG_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperEnv); dir != "" {
		runHelper(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func runHelper(dir string) {
	ctx := context.Background()
	server, err := localpg.Start(ctx, localpg.Config{DataDir: dir, Volatile: true})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	if err := server.Stop(ctx); err != nil {
		os.Exit(1)
	}
}
