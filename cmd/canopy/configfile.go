package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/alecthomas/kong"
)

// configFile holds settings from a TOML file. A key is the name of a setting's variable without CANOPY_, in lower case
// and with dashes: max-sockets for CANOPY_MAX_SOCKETS.
type configFile struct {
	path   string
	values map[string]any
}

// loadConfig reads a file and checks its settings against the flags that they stand for. The error names every wrong
// key.
func loadConfig(path string, app *kong.Application) (*configFile, error) {
	file := &configFile{path: path}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("configuration: %v", err)
	}
	if err := toml.Unmarshal(text, &file.values); err != nil {
		return nil, usagef("configuration %s: %v", path, err)
	}
	if err := file.check(settings(app)); err != nil {
		return nil, usagef("configuration %s:\n  %s", path, strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	return file, nil
}

func (f *configFile) check(known map[string]*kong.Flag) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(f.values)) {
		flag, ok := known[key]
		if !ok {
			errs = append(errs, unknownKey(key, f.values[key], known))
			continue
		}
		if err := checkSetting(flag, f.values[key]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

func unknownKey(key string, value any, known map[string]*kong.Flag) error {
	if _, isTable := value.(map[string]any); isTable {
		return fmt.Errorf("%s: sections are not supported", key)
	}
	alike := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(key), "canopy_"), "_", "-")
	if _, ok := known[alike]; ok {
		return fmt.Errorf("%s: no such setting; did you mean %s?", key, alike)
	}
	return fmt.Errorf("%s: no such setting", key)
}

// checkSetting returns the reason why a flag cannot have a value. Types must match exactly; kong would round a number or
// accept a word for one.
func checkSetting(flag *kong.Flag, value any) error {
	want, ok := "a string", false
	switch flag.Target.Interface().(type) {
	case bool:
		want = "true or false"
		_, ok = value.(bool)
	case int, int64:
		want = "a whole number"
		_, ok = value.(int64)
	case time.Duration:
		want = `a duration such as "10s"`
		_, ok = value.(string)
	case []string:
		want = "a list of strings"
		list, isList := value.([]any)
		ok = isList && !slices.ContainsFunc(list, func(v any) bool { _, isText := v.(string); return !isText })
	default:
		_, ok = value.(string)
	}
	if !ok {
		return fmt.Errorf("it must be %s", want)
	}
	if value == "" {
		return nil // the same as none
	}
	if flag.Enum != "" && !flag.EnumMap()[fmt.Sprint(value)] {
		return fmt.Errorf("it must be one of %s", strings.Join(flag.EnumSlice(), ", "))
	}
	return flag.Parse(kong.Scan().PushTyped(value, kong.FlagValueToken), reflect.New(flag.Target.Type()).Elem())
}

// Resolve implements kong.Resolver.
func (f *configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	value, ok := f.values[settingKey(flag)]
	if !ok || value == "" {
		return nil, nil
	}
	return value, nil
}

// Validate implements kong.Resolver.
func (f *configFile) Validate(*kong.Application) error { return nil }

// settingKey is empty for flags that are about one call, which have no variable.
func settingKey(flag *kong.Flag) string {
	name := strings.TrimPrefix(flag.Tag.Get("envar"), "CANOPY_")
	return strings.ToLower(strings.ReplaceAll(name, "_", "-"))
}

// settings are all flags of all commands that a configuration file may have, by key.
func settings(app *kong.Application) map[string]*kong.Flag {
	found := map[string]*kong.Flag{}
	for _, command := range app.Leaves(false) {
		for _, flag := range command.Flags {
			if key := settingKey(flag); key != "" {
				found[key] = flag
			}
		}
	}
	return found
}
