//go:build unix

package localpg_test

import (
	"context"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/canopysync/canopy/pgfuncs/localpg"
)

func ExampleStart() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "canopy-example-*")
	if err != nil {
		fmt.Println(err)
		return
	}
	server, err := localpg.Start(ctx, localpg.Config{DataDir: dir, Volatile: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		fmt.Println(err)
		return
	}
	var database string
	err = conn.QueryRow(ctx, "select current_database()").Scan(&database)
	fmt.Println(database, err)
	fmt.Println(conn.Close(ctx), server.Stop(ctx), localpg.Remove(ctx, dir))
	// Output:
	// canopy <nil>
	// <nil> <nil> <nil>
}
