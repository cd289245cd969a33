package format_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/canopysync/canopy/bootstrap/format"
	"github.com/canopysync/canopy/bootstrap/format/formattest"
)

// Loading a snapshot: nothing that was read counts before io.EOF.
func ExampleReader() {
	stream := bytes.NewReader(formattest.Encode(formattest.Sample()))
	r, err := format.NewReader(stream)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s at seq %d\n", r.Header().Room, r.Header().Seq)
	for {
		rows, err := r.Next()
		if err == io.EOF {
			fmt.Println("whole")
			return
		}
		if err != nil {
			fmt.Println("start over:", err)
			return
		}
		switch rows.Section().Tag {
		case format.TagNodes:
			for n := (format.NodeRow{}); rows.NextNode(&n); {
				fmt.Printf("node %s below %s at %s\n", n.Node, n.Parent, n.OrderKey)
			}
		case format.TagValues:
			for v := (format.ValueRow{}); rows.NextValue(&v); {
				fmt.Printf("%s of %s is %s\n", v.Key, v.Node, v.Value)
			}
		}
	}
	// Output:
	// garden at seq 8
	// node 01930000-0000-7000-0000-000000000001 below 00000000-0000-0000-0000-000000000001 at a0
	// node 01930000-0000-7000-0000-000000000002 below 00000000-0000-0000-0000-000000000001 at a1
	// node 01930000-0000-7000-0000-000000000003 below 01930000-0000-7000-0000-000000000002 at a0
	// title of 01930000-0000-7000-0000-000000000001 is "tulips"
	// colour of 01930000-0000-7000-0000-000000000002 is null
	// whole
}

func ExampleVerify() {
	stream := formattest.Encode(formattest.Sample())
	_, err := format.Verify(bytes.NewReader(stream[:len(stream)-1]))
	fmt.Println(errors.Is(err, format.ErrTruncated))
	sum, err := format.Verify(bytes.NewReader(stream))
	fmt.Println(sum.Trailer.Rows, err)
	// Output:
	// true
	// map[nodes:3 ops:3 values:2] <nil>
}
