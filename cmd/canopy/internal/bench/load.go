package bench

import (
	"cmp"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/canopysync/canopy/moveop"
	"github.com/canopysync/canopy/realtime/wire"
)

// order is what the load process is told: one of its fields is set.
type order struct {
	Join  *join
	Drive *drive
	Count *int // of the sockets of this crowd, those that are open and were sent something since they joined
	Leave *int // a crowd
	Visit *visit
}

// answer is what it says to an order.
type answer struct {
	Err     string
	Crowd   int // joined
	Count   int
	Outcome outcome
	Memory  footprint // of a visit
}

// join opens sockets, which stay open until leave.
type join struct {
	URL     string      // of the server, http://host:port
	Rooms   []wire.Room // socket i is in room i modulo their number, and joins at its head
	Sockets int
	Nodes   int   // of each room, made by an author with
	Tick    int64 // this clock
	Bare    bool  // the server is not a room server but a broadcast
	Slow    bool  // the sockets join at the beginning of the log and read slowBytes a second
}

// slowBytes is what a slow client reads in a second.
const slowBytes = 1000

// drive pushes operations to the sockets of a crowd, one a push, and waits until each is acknowledged and
// has reached everybody in its room. Operation i is made by socket i modulo Writers, in an open loop: it is
// due when its turn comes, whatever became of those before, and times count from then.
type drive struct {
	Crowd   int
	Writers int
	Ops     int
	Rate    float64  // operations a second; 0: all are due at once
	Frames  [][]byte // of a bare broadcast: what is sent in place of operations made up here, which have
	Tick    int64    // timestamps from this one on
	Times   bool     // note when which operation reached whom
	Upload  *upload
}

// upload is what a client, with a replica of the room in a file, has made offline and pushes beside.
type upload struct {
	URL, Room, Dir string
	Ops            int
}

// outcome is what became of a drive.
type outcome struct {
	Stamps    []moveop.Timestamp // of the operations
	Delivered [][]time.Duration  // by operation: how long it took to reach each of the others
	Acked     []time.Duration    // by operation
	Took      time.Duration      // until everybody had everything
	AckedAll  time.Duration      // until the last acknowledgement
	Frames    int                // with operations, received by all sockets
	Witnessed [][]byte           // those that the last socket of the crowd received
	Uploaded  time.Duration      // how long the upload took
}

// Load does what the measuring process says: orders come in on r, answers go out on w, until r ends.
func Load(ctx context.Context, r io.Reader, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	orders := make(chan order)
	ended := make(chan error, 1)
	go func() {
		defer cancel() // nobody is there any more who wants to know
		for dec := gob.NewDecoder(r); ; {
			var o order
			if err := dec.Decode(&o); err != nil {
				ended <- err
				return
			}
			select {
			case orders <- o:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	l := &loader{crowds: map[int]*crowd{}}
	defer l.close()
	enc := gob.NewEncoder(w)
	for {
		select {
		case o := <-orders:
			a, err := l.obey(ctx, o)
			if err != nil {
				a.Err = err.Error()
			}
			if err := enc.Encode(a); err != nil {
				return fmt.Errorf("answer: %w", err)
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read orders: %w", err)
		}
	}
}

// loader is the state of the load process.
type loader struct {
	crowds map[int]*crowd
	joined int
}

func (l *loader) obey(ctx context.Context, o order) (a answer, err error) {
	switch {
	case o.Join != nil:
		c, err := newCrowd(ctx, *o.Join)
		if err != nil {
			return a, err
		}
		l.joined++
		l.crowds[l.joined] = c
		a.Crowd = l.joined
		return a, nil
	case o.Drive != nil:
		a.Outcome, err = l.crowds[o.Drive.Crowd].drive(ctx, *o.Drive)
		return a, err
	case o.Count != nil:
		a.Count = l.crowds[*o.Count].heard()
		return a, nil
	case o.Visit != nil:
		a.Memory, err = o.Visit.run(ctx)
		return a, err
	case o.Leave != nil:
		l.crowds[*o.Leave].close()
		delete(l.crowds, *o.Leave)
		return a, nil
	}
	return a, errors.New("an order of nothing")
}

func (l *loader) close() {
	for _, c := range l.crowds {
		c.close()
	}
}

// load is the load process, as the measuring process has it.
type load struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	enc   *gob.Encoder
	dec   *gob.Decoder
	// stopped is why the process was stopped, nil while it was not: what it says then, or its silence, is no
	// failure.
	stopped func() error
}

func startLoad(ctx context.Context, c *Config) (*load, error) {
	if len(c.Load) == 0 {
		return nil, errors.New("Config.Load is required")
	}
	l := &load{cmd: exec.CommandContext(ctx, c.Load[0], c.Load[1:]...), stopped: ctx.Err}
	l.cmd.Stderr = os.Stderr
	l.cmd.WaitDelay = 10 * time.Second
	var err error
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	stdout, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	l.enc, l.dec = gob.NewEncoder(l.stdin), gob.NewDecoder(stdout)
	return l, nil
}

func (l *load) ask(o order) (a answer, err error) {
	if err = l.enc.Encode(o); err == nil {
		err = l.dec.Decode(&a)
	}
	if err == nil && a.Err != "" {
		err = errors.New(a.Err)
	}
	if err != nil {
		return a, fmt.Errorf("load process: %w", cmp.Or(l.stopped(), err))
	}
	return a, nil
}

func (l *load) join(j join) (crowd int, err error) {
	a, err := l.ask(order{Join: &j})
	return a.Crowd, err
}

func (l *load) drive(d drive) (outcome, error) {
	a, err := l.ask(order{Drive: &d})
	return a.Outcome, err
}

func (l *load) leave(crowd int) error {
	_, err := l.ask(order{Leave: &crowd})
	return err
}

func (l *load) close() error {
	return errors.Join(l.stdin.Close(), l.cmd.Wait())
}
