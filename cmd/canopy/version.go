package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCmd struct {
	jsonFlag
}

// buildInfo is what the Go toolchain stamped into the binary.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readBuild() buildInfo {
	b := buildInfo{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (c *versionCmd) Run(env *Env) error {
	b := readBuild()
	return c.print(env, b, func() {
		fmt.Fprintf(env.Stdout, "canopy %s\n", b.Version)
		if b.Revision != "" {
			fmt.Fprintf(env.Stdout, "commit  %s, %s", b.Revision, b.Time)
			if b.Modified {
				fmt.Fprint(env.Stdout, ", with changes")
			}
			fmt.Fprintln(env.Stdout)
		}
		fmt.Fprintf(env.Stdout, "built   %s, %s\n", b.Go, b.Platform)
	})
}
