// Package apitest checks the descriptions of the services (OpenAPI, AsyncAPI) against what goes over the wire.
// It is for tests alone.
//
// Objects in the descriptions are open, as clients have to take them. Here they are closed, so that what is sent
// and not described is found, too.
package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"
	"github.com/pb33f/libopenapi/datamodel"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// base is where the documents are, as far as their references to each other are concerned.
const base = "https://canopy.test/"

// Documents are descriptions that may refer to each other, by name.
type Documents struct {
	t        testing.TB
	parsed   map[string]any
	compiler *jsonschema.Compiler
}

// Open parses documents of YAML.
func Open(t testing.TB, texts map[string]string) *Documents {
	t.Helper()
	d := &Documents{t: t, parsed: map[string]any{}, compiler: jsonschema.NewCompiler()}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	for name, text := range texts {
		d.parsed[name] = parse(t, text)
		if err := d.compiler.AddResource(base+name, closed(parse(t, text))); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func parse(t testing.TB, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	v, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// closed lets no object have members that are not described.
func closed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			v[name] = closed(v[name])
		}
		if _, described := v["properties"]; described && v["type"] == "object" && v["additionalProperties"] == nil {
			v["additionalProperties"] = false
		}
	case []any:
		for i := range v {
			v[i] = closed(v[i])
		}
	}
	return v
}

// At returns what is at a path in a document, nil if nothing is. References on the way are followed within
// it.
func (d *Documents) At(name string, path ...string) any {
	at, _ := d.find(name, path)
	return at
}

func (d *Documents) find(name string, path []string) (at any, pointer []string) {
	at = d.parsed[name]
	for _, key := range path {
		object, _ := at.(map[string]any)
		at, pointer = object[key], append(slices.Clip(pointer), key)
		for {
			object, _ := at.(map[string]any)
			ref, ok := object["$ref"].(string)
			local, isLocal := strings.CutPrefix(ref, "#/")
			if !ok || !isLocal {
				break
			}
			return d.find(name, append(strings.Split(local, "/"), path[len(pointer):]...))
		}
		if at == nil {
			return nil, nil
		}
	}
	return at, pointer
}

// Names lists the members of an object in a document.
func (d *Documents) Names(name string, path ...string) (names []string) {
	object, _ := d.At(name, path...).(map[string]any)
	for member := range object {
		names = append(names, member)
	}
	slices.Sort(names)
	return names
}

// Conforms reports why a value is not what the schema at a path describes.
func (d *Documents) Conforms(text []byte, name string, path ...string) error {
	_, pointer := d.find(name, path)
	if pointer == nil {
		return fmt.Errorf("%s has no %s", name, strings.Join(path, " "))
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	location := base + name + "#"
	for _, key := range pointer {
		location += "/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(key))
	}
	schema, err := d.compiler.Compile(location)
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// Routes lists the methods and paths of an OpenAPI document.
func (d *Documents) Routes(name string) (routes []string) {
	for _, path := range d.Names(name, "paths") {
		for _, method := range d.Names(name, "paths", path) {
			if method != "parameters" {
				routes = append(routes, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(routes)
	return routes
}

// Answers reports why an answer is not one that an OpenAPI document describes for a route ("GET /path").
func (d *Documents) Answers(name, route string, status int, contentType string, body []byte) error {
	method, path, _ := strings.Cut(route, " ")
	response := []string{"paths", path, strings.ToLower(method), "responses", fmt.Sprint(status)}
	if d.At(name, response...) == nil {
		return fmt.Errorf("the status %d is not described", status)
	}
	kinds := d.Names(name, append(response, "content")...)
	if len(kinds) == 0 {
		return nil
	}
	kind, _, _ := strings.Cut(contentType, ";")
	if !slices.Contains(kinds, kind) {
		return fmt.Errorf("the content is of type %s, described are %s", kind, kinds)
	}
	schema := append(response, "content", kind, "schema")
	switch kind {
	case "application/json":
		return d.Conforms(body, name, schema...)
	case "application/x-ndjson":
		for line := range bytes.Lines(body) {
			if err := d.Conforms(line, name, schema...); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckOpenAPI checks that a document is OpenAPI 3.1, and that its references lead somewhere.
func CheckOpenAPI(t testing.TB, text string) {
	t.Helper()
	meta, err := jsonschema.UnmarshalJSON(strings.NewReader(datamodel.OpenAPI31SchemaData))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(base+"openapi-3.1", meta); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile(base + "openapi-3.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(parse(t, text)); err != nil {
		t.Errorf("it is not OpenAPI 3.1: %v", err)
	}
	document, err := libopenapi.NewDocument([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := document.BuildV3Model(); err != nil {
		t.Errorf("its model cannot be built: %v", err)
	}
}
