// Package deploy_test checks what is used to run Canopy (units, images, dashboard, alerts) against the
// program: everything that they name must exist.
package deploy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/canopysync/canopy/bootstrap"
	"github.com/canopysync/canopy/realtime"
)

// metric is one that a service registers.
type metric struct {
	labels []string
	used   bool
}

var descPattern = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)

// registered are the metrics of both services by name.
func registered(t *testing.T) map[string]*metric {
	t.Helper()
	registry := prometheus.NewRegistry()
	if _, err := realtime.New(realtime.Config{Store: struct{ realtime.Store }{}, Registry: registry}); err != nil {
		t.Fatal(err)
	}
	if _, err := bootstrap.New(bootstrap.Config{Source: struct{ bootstrap.Source }{}, Registry: registry}); err != nil {
		t.Fatal(err)
	}
	descs := make(chan *prometheus.Desc, 1000)
	registry.Describe(descs)
	close(descs)
	metrics := map[string]*metric{}
	for desc := range descs {
		parts := descPattern.FindStringSubmatch(desc.String())
		if parts == nil {
			t.Fatalf("cannot read %s", desc)
		}
		m := &metric{}
		if parts[2] != "" {
			m.labels = strings.Split(parts[2], ",")
		}
		metrics[parts[1]] = m
	}
	if len(metrics) < 20 {
		t.Fatalf("only %d metrics", len(metrics))
	}
	return metrics
}

var (
	namePattern  = regexp.MustCompile(`canopy_[a-z_]+`)
	labelPattern = regexp.MustCompile(`(canopy_[a-z_]+)\{([a-z]+)[=~!]+"`)
)

// use finds the metrics that an expression names.
func use(t *testing.T, metrics map[string]*metric, expr string) {
	t.Helper()
	for _, name := range namePattern.FindAllString(expr, -1) {
		m := lookup(metrics, name)
		if m == nil {
			t.Errorf("no service has %s, in %s", name, expr)
			continue
		}
		m.used = true
	}
	for _, match := range labelPattern.FindAllStringSubmatch(expr, -1) {
		m := lookup(metrics, match[1])
		if m != nil && match[2] != "job" && match[2] != "instance" && !slices.Contains(m.labels, match[2]) {
			t.Errorf("%s has no label %s", match[1], match[2])
		}
	}
}

func lookup(metrics map[string]*metric, name string) *metric {
	if m := metrics[name]; m != nil {
		return m
	}
	base, isBucket := strings.CutSuffix(name, "_bucket")
	if !isBucket || !strings.HasSuffix(base, "seconds") && !strings.HasSuffix(base, "pushes") {
		return nil
	}
	return metrics[base]
}

// A label whose values have no bound would fill the memory of whoever collects it.
func TestMetricsHaveNoUnboundedLabels(t *testing.T) {
	t.Parallel()
	bounded := []string{"code", "result", "kind", "reason", "route", "status", "limit"}
	for name, m := range registered(t) {
		for _, label := range m.labels {
			if !slices.Contains(bounded, label) {
				t.Errorf("%s has the label %s", name, label)
			}
		}
	}
}

// The dashboard shows every metric, and none that does not exist.
func TestDashboard(t *testing.T) {
	t.Parallel()
	var dashboard struct {
		Panels []struct {
			Title, Type string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	metrics := registered(t)
	for _, panel := range dashboard.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("%s shows nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			use(t, metrics, target.Expr)
		}
	}
	for name, m := range metrics {
		if !m.used {
			t.Errorf("the dashboard lacks %s", name)
		}
	}
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	metrics, rules := registered(t), 0
	for line := range strings.Lines(read(t, "alerts.yaml")) {
		if expr, ok := strings.CutPrefix(strings.TrimSpace(line), "expr: "); ok {
			use(t, metrics, expr)
			rules++
		}
	}
	if rules < 5 {
		t.Errorf("%d rules", rules)
	}
}

// Settings that units, images and compose file name are those of the README, which another test compares
// with the program.
func TestSettingsExist(t *testing.T) {
	t.Parallel()
	readme := read(t, "../README.md")
	variable := regexp.MustCompile(`CANOPY_[A-Z_]+`)
	for _, pattern := range []string{"systemd/*", "compose.yaml", "Dockerfile"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, file := range files {
			for _, name := range variable.FindAllString(read(t, file), -1) {
				if name != "CANOPY_KEYS" && !strings.Contains(readme, "`"+name+"`") { // that is compose's own
					t.Errorf("%s: there is no %s", file, name)
				}
			}
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
