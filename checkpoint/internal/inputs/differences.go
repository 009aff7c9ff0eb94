package inputs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Differences names the top-level keys in which two JSON objects differ.
func Differences(a, b json.RawMessage) (string, error) {
	var x, y map[string]any
	for _, v := range []struct {
		data json.RawMessage
		to   *map[string]any
	}{{a, &x}, {b, &y}} {
		dec := json.NewDecoder(bytes.NewReader(v.data))
		dec.UseNumber()
		if err := dec.Decode(v.to); err != nil {
			return "", err
		}
	}
	keys := map[string]bool{}
	for k := range x {
		keys[k] = true
	}
	for k := range y {
		keys[k] = true
	}
	var list []string
	for k := range keys {
		if !reflect.DeepEqual(x[k], y[k]) {
			list = append(list, fmt.Sprintf("%s was %s, is %s", k, jsonText(x[k]), jsonText(y[k])))
		}
	}
	return Some(list), nil
}

// Some lists the first few of many.
func Some(list []string) string {
	const most = 5
	slices.Sort(list)
	if len(list) > most {
		list = append(list[:most], fmt.Sprintf("and %d more", len(list)-most))
	}
	return strings.Join(list, "; ")
}

func jsonText(v any) string {
	if v == nil {
		return "not set"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	const most = 200
	if len(b) > most {
		return string(b[:most]) + "…"
	}
	return string(b)
}
