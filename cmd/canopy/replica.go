package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/canopysync/canopy/client"
	"github.com/canopysync/canopy/realtime/wire"
)

// syncFlags are what commands need to keep a replica in step with the services.
type syncFlags struct {
	realtimeFlag
	bootstrapFlag
	tokenFlag
	Patience time.Duration `default:"30s" envar:"CANOPY_PATIENCE" placeholder:"DURATION" help:"Give up after this long without a connection; 30s by default."`
}

// replicaFlags are for commands that work on a replica of a room, as an application does.
type replicaFlags struct {
	syncFlags
	File string `placeholder:"FILE" help:"Keep the replica in this file, to reuse it next time; a temporary file by default."`
}

// replica is a client with what it takes to use it from a command.
type replica struct {
	*client.Client
	patience time.Duration
	temp     string // directory to remove, empty where the file was chosen
}

func (f replicaFlags) openReplica(ctx context.Context, room string) (*replica, error) {
	return f.open(ctx, room, f.File)
}

// open opens a replica that syncs with the services, after checking that they answer: the client itself would wait for
// them. Without a path, its file is temporary.
func (f syncFlags) open(ctx context.Context, room, path string) (*replica, error) {
	if err := checkRoom(room); err != nil {
		return nil, err
	}
	rt, err := f.realtimeFlag.service(f.tokenFlag)
	if err != nil {
		return nil, err
	}
	bs, err := f.bootstrapFlag.service(f.tokenFlag)
	if err != nil {
		return nil, err
	}
	for _, s := range []service{rt, bs} {
		if err := s.ready(ctx); err != nil {
			return nil, err
		}
	}
	r := &replica{patience: f.Patience}
	if path == "" {
		if r.temp, err = os.MkdirTemp("", "canopy-*"); err != nil {
			return nil, err
		}
		path = filepath.Join(r.temp, "replica")
	}
	r.Client, err = client.Open(ctx, path, client.Options{
		Room: room, RealtimeURL: rt.base, BootstrapURL: bs.base, Name: "canopy", Token: f.source(),
		Synchronous: client.SynchronousNormal, HTTPClient: bs.http,
	})
	if err != nil {
		return nil, errors.Join(err, r.removeTemp())
	}
	return r, nil
}

func (r *replica) close() error {
	return errors.Join(r.Client.Close(), r.removeTemp())
}

func (r *replica) removeTemp() error {
	if r.temp == "" {
		return nil
	}
	return os.RemoveAll(r.temp)
}

// synced waits until replica and server are in step, and reports progress to show.
func (r *replica) synced(ctx context.Context, show func(client.Status)) error {
	return r.patiently(ctx, r.WaitSynced, show)
}

// patiently runs a task that needs the services, and reports progress to show. It gives up if the token is refused, or
// after a while without a connection.
func (r *replica) patiently(ctx context.Context, do func(context.Context) error, show func(client.Status)) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(waiting) }()
	giveUp := func(err error) error {
		cancel()
		<-done
		return err
	}
	lost := time.NewTimer(r.patience)
	defer lost.Stop()
	var last client.Status
	statuses := r.WatchStatus(waiting)
	for {
		select {
		case err := <-done:
			return r.explain(ctx, err)
		case s, open := <-statuses:
			if !open {
				statuses = nil // then done is about to say why
				continue
			}
			if connected(s) || connected(last) {
				lost.Reset(r.patience)
			}
			if s.State == client.StateNeedsAuth {
				return giveUp(fmt.Errorf("the service does not accept the token: %w", orElse(s.Err, errNoAnswer)))
			}
			if refusal, ok := errors.AsType[*wire.Error](s.Err); ok && refusal.Code == wire.CodeForbidden {
				return giveUp(refusal) // the client would wait for a token that allows it
			}
			last = s
			show(s)
		case <-lost.C:
			if !connected(last) {
				return giveUp(unavailable(fmt.Errorf("no connection for %s: %w", r.patience, orElse(last.Err, errNoAnswer))))
			}
			lost.Reset(r.patience)
		}
	}
}

var errNoAnswer = errors.New("the services do not answer")

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// connected reports whether the connection works, as far as known.
func connected(s client.Status) bool {
	switch s.State {
	case client.StateOffline:
		return s.Err == nil // it is busy with the file alone
	case client.StateBootstrapping:
		return s.Err == nil || s.Rows > 0 // each attempt begins like this
	case client.StateCatchingUp, client.StateSynced, client.StateQuarantined:
		return true
	}
	return false
}

// explain adds the refused operations to ErrRefused.
func (r *replica) explain(ctx context.Context, err error) error {
	if !errors.Is(err, client.ErrRefused) {
		return err
	}
	list, listErr := r.Refused(ctx)
	if listErr != nil || len(list) == 0 {
		return errors.Join(err, listErr)
	}
	return fmt.Errorf("%w: %d of them, the first one (%s) as %s", err, len(list), list[0].Op.TS, list[0].Code)
}
