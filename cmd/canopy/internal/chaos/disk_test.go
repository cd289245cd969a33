//go:build unix

package chaos_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestSmallDisk(t *testing.T) {
	t.Parallel()
	w := setup(t)
	t.Run("as SQLite counts pages", func(t *testing.T) { w.play(t, 2, (*round).fewPages) })
	t.Run("as the kernel counts bytes", func(t *testing.T) { w.play(t, 2, (*round).smallFiles) })
	t.Run("a file system", func(t *testing.T) { w.play(t, 2, (*round).smallFileSystem) })
}

// fill makes edits until one is refused for want of space, while others edit too. It returns what was said.
func (r *round) fillDisk(p *person) (refused []report) {
	r.Helper()
	const most = 50
	for range most {
		r.author().must(order{Do: "edit", N: 3, Size: 5000})
		p.must(order{Do: "edit", N: 10, Size: 5000})
		p.mu.Lock()
		refused = p.refused
		p.mu.Unlock()
		if len(refused) > 0 {
			return refused
		}
	}
	r.Fatalf("the disk of %s does not get full", p.plan.Name)
	return nil
}

// fewPages restarts somebody with a file that may not grow much, and with SIGKILL once it is full.
func (r *round) fewPages() {
	p := r.people[1]
	p.kill()
	info, err := os.Stat(p.plan.Path)
	if err != nil {
		r.Fatal(err)
	}
	p.plan.MaxPages = int(info.Size()/4096) + 40
	p.start(death{})
	for _, got := range r.fillDisk(p) {
		if !got.Full {
			r.Errorf("with a full disk an edit fails with %s", got.Error)
		}
	}
	p.kill()
	p.plan.MaxPages = 0
}

// smallFiles has writes to the file end in their middle, and lets the same process go on afterwards.
func (r *round) smallFiles() {
	p := r.people[1]
	info, err := os.Stat(p.plan.Path + "-wal")
	if err != nil {
		r.Fatal(err)
	}
	p.must(order{Do: "disk", Disk: info.Size() + r.rng.Int64N(50_000)})
	r.Logf("an edit fails with %s", r.fillDisk(p)[0].Error)
	p.must(order{Do: "disk", Disk: -1})
	r.goesOn(p)
}

// goesOn checks that a process whose disk was full makes edits again.
func (r *round) goesOn(p *person) {
	r.Helper()
	p.mu.Lock()
	p.refused = nil
	p.mu.Unlock()
	p.must(order{Do: "edit", N: 5, Size: 100})
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.refused) > 0 {
		r.Errorf("once there is room again, an edit fails with %s", p.refused[0].Error)
	}
}

// smallFileSystem fills a real one, which only root can have made on Linux; elsewhere the other two tests have
// to do, and this one fills nothing.
func (r *round) smallFileSystem() {
	dir := filepath.Join(r.files, "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		r.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "canopy-chaos", dir).CombinedOutput(); err != nil {
		r.Logf("no file system of its own (%v: %s): full disks are those of the other tests", err, out)
		return
	}
	defer func() {
		if out, err := exec.Command("umount", "--lazy", dir).CombinedOutput(); err != nil {
			r.Errorf("unmount: %v: %s", err, out)
		}
	}()
	p := r.newPerson()
	p.plan.Path = filepath.Join(dir, "replica.canopy")
	p.start(death{})
	for _, got := range r.fillDisk(p) {
		if !got.Full {
			r.Errorf("with a full disk an edit fails with %s", got.Error)
		}
	}
	if out, err := exec.Command("mount", "-o", "remount,size=64m", dir).CombinedOutput(); err != nil {
		r.Fatalf("remount: %v: %s", err, out)
	}
	r.goesOn(p)
	r.check()
	r.dismiss(p)
}

// A clock that jumps, by seconds, which the server takes, or by years, with pushes under way and without.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	w := setup(t)
	jumps := map[string]time.Duration{
		"by half a minute": 30 * time.Second, "by ten minutes": 10 * time.Minute, "by two years": 2 * 365 * 24 * time.Hour,
		"back by a day": -24 * time.Hour,
	}
	for name, by := range jumps {
		t.Run(name, func(t *testing.T) {
			w.play(t, 2, func(r *round) { r.jump(by) })
		})
	}
}

func (r *round) jump(by time.Duration) {
	p := r.author()
	set := func(to time.Duration) {
		p.clock = to
		p.must(order{Do: "clock", Clock: to})
	}
	set(by)
	r.write()
	p.must(order{Do: "sync"})

	// It jumps back while what it pushed is committed and not acknowledged.
	release := r.reachAck()
	set(0)
	r.write()
	p.realtime.cut()
	release()
	r.people[1].must(order{Do: "edit", N: 3, Size: 100})
	p.must(order{Do: "sync"})

	// It jumps again offline, is killed, and comes back with the clock right.
	p.realtime.refuse(true)
	p.realtime.cut()
	set(by)
	r.write()
	p.kill()
	p.clock = 0
	p.start(death{})
	r.write()
	p.realtime.refuse(false)
}
