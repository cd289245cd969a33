//go:build unix

package chaos_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a running program.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *os.File
	exited chan struct{} // closed when it is gone
}

// launch runs a program whose standard error is added to the file at log.
func launch(cmd *exec.Cmd, log string) (*process, error) {
	stderr, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	p := &process{cmd: cmd, exited: make(chan struct{})}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// Not StdoutPipe, which Wait closes under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.Stdout, p.stdout = w, r
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	dieWithThread(cmd.SysProcAttr)
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // which lives as long as this process does
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the exit code is in ProcessState
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		_ = r.Close()
		return nil, err
	}
	return p, nil
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill is SIGKILL; it returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// service is one of Canopy's services. It may be killed and started again, on another port each time; who
// wants to reach it dials it.
type service struct {
	name     string
	binary   string
	args     []string
	log      string
	database *proxy // between it and Postgres

	mu   sync.Mutex // guards what follows
	run  *process
	addr string
}

// serviceReady is what a service prints when it serves.
type serviceReady struct{ Event, URL string }

func (s *service) start() error {
	cmd := exec.Command(s.binary, append(s.args, "--json", "--insecure-no-auth", "--addr=127.0.0.1:0",
		"--database-url=postgres://canopy@"+s.database.addr+"/canopy?sslmode=disable&application_name=service")...)
	p, err := launch(cmd, s.log)
	if err != nil {
		return err
	}
	var ready serviceReady
	line, err := bufio.NewReader(p.stdout).ReadString('\n')
	if err == nil {
		err = json.Unmarshal([]byte(line), &ready)
	}
	if err != nil || ready.Event != "ready" {
		p.kill()
		return fmt.Errorf("%s does not start: %v in %q", s.name, err, line)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.addr = p, strings.TrimPrefix(ready.URL, "http://")
	return nil
}

func (s *service) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run
}

func (s *service) dial() (net.Conn, error) {
	s.mu.Lock()
	addr := s.addr
	s.mu.Unlock()
	return net.Dial("tcp", addr)
}

func (s *service) kill() {
	p := s.process()
	p.kill()
	_ = p.stdout.Close()
}

// terminate stops it in order, and returns the exit code.
func (s *service) terminate() (int, error) {
	p := s.process()
	defer p.stdout.Close()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return -1, err
	}
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(patience):
		p.kill()
		return -1, fmt.Errorf("%s does not end", s.name)
	}
}

// heal starts it again if it is not running.
func (s *service) heal() error {
	if s.process().alive() {
		return nil
	}
	_ = s.process().stdout.Close()
	return s.start()
}

// get reads a path over HTTP.
func (s *service) get(path string) (string, error) {
	s.mu.Lock()
	url := "http://" + s.addr + path
	s.mu.Unlock()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	client := http.Client{Timeout: patience}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s %s", s.name, path, resp.Status, body)
	}
	return string(body), err
}

// metric reads a metric without labels.
func (s *service) metric(name string) (value float64, err error) {
	text, err := s.get("/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err = fmt.Sscan(rest, &value)
			return value, err
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", s.name, name)
}

// person is somebody who edits a room through a client process.
type person struct {
	t    testing.TB
	plan plan
	log  string
	// What the process reaches the services through.
	realtime, bootstrap *proxy

	run     *process
	answers chan report // all but "edited" and "refused"; closed with the process's output
	pending int         // answers to come
	doomed  bool        // to die at some point
	clock   time.Duration

	mu      sync.Mutex // guards what follows
	kept    int64      // edits that were kept, for all that it was told
	refused []report
}

// start runs the process, which is to die at that point.
func (p *person) start(at death) {
	p.t.Helper()
	p.launch(at)
	ready, ok := p.answer()
	if !ok && at.Nth > 0 {
		return // it died on the way
	}
	if ready.What != "ready" {
		p.t.Fatalf("%s does not start: %+v\n%s", p.plan.Name, ready, tail(p.log))
	}
	if ready.Edits < p.kept {
		p.t.Fatalf("%s has %d edits in its file, and was told that %d were kept", p.plan.Name, ready.Edits, p.kept)
	}
	if p.clock != 0 {
		p.must(order{Do: "clock", Clock: p.clock})
	}
}

func (p *person) launch(at death) {
	p.t.Helper()
	path, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), beReplica+"=1")
	if p.run, err = launch(cmd, p.log); err != nil {
		p.t.Fatal(err)
	}
	p.answers, p.pending, p.doomed = make(chan report, 16), 0, at.Nth > 0
	go p.listen(p.run, p.answers)
	p.plan.Seed++ // not the same edits as the last process
	with := p.plan
	with.Death = at
	p.send(with)
}

func (p *person) listen(run *process, answers chan<- report) {
	defer close(answers)
	defer run.stdout.Close()
	for lines := bufio.NewScanner(run.stdout); lines.Scan(); {
		var r report
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // cut off
		}
		p.mu.Lock()
		switch r.What {
		case "edited":
			p.kept = r.Edits
		case "refused":
			p.refused = append(p.refused, r)
		}
		p.mu.Unlock()
		if r.What != "edited" && r.What != "refused" {
			answers <- r
		}
	}
}

// send may go to a process that has just died.
func (p *person) send(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		p.t.Fatal(err)
	}
	_, _ = p.run.stdin.Write(append(line, '\n'))
	p.pending++
}

// answer waits for the end of the next order; ok is false where the process died over it.
func (p *person) answer() (r report, ok bool) {
	p.t.Helper()
	p.pending--
	select {
	case r, ok = <-p.answers:
	case <-time.After(patience + 10*time.Second):
		p.t.Fatalf("%s does not answer\n%s", p.plan.Name, tail(p.log))
	}
	if !ok {
		<-p.run.exited
	}
	return r, ok
}

// settle waits until all that was sent is done.
func (p *person) settle() {
	p.t.Helper()
	for p.pending > 0 {
		if _, ok := p.answer(); !ok {
			p.pending = 0
		}
	}
}

// ask has the process do something, and waits for it.
func (p *person) ask(o order) (report, bool) {
	p.t.Helper()
	p.settle()
	p.send(o)
	return p.answer()
}

func (p *person) must(o order) report {
	p.t.Helper()
	r, ok := p.ask(o)
	if !ok || r.What != "done" {
		p.t.Fatalf("%s, told to %s: %+v\n%s", p.plan.Name, o.Do, r, tail(p.log))
	}
	return r
}

// kill is SIGKILL.
func (p *person) kill() {
	p.run.kill()
	for range p.answers { // what it still said
	}
	p.pending = 0
}

// heal starts the process again if it is not running, or is still to die.
func (p *person) heal() {
	p.t.Helper()
	p.settle()
	if p.doomed {
		p.kill()
	}
	if !p.run.alive() {
		for range p.answers {
		}
		p.start(death{})
	}
}

// tail is the end of a log.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return filepath.Base(path) + ":\n" + string(text[max(0, len(text)-4096):])
}
