// Package told decides settings, each by the first candidate that is there, and tells
// of each who decided it.
package told

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
)

// Setting is one option as it is in effect.
type Setting struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
	From  string `json:"from"` // who decided it: "given", "default", "preset best", "target vllm", …
}

// Text returns the value as a flag has it.
func (s Setting) Text() string {
	switch v := s.Value.(type) {
	case []string:
		return strings.Join(v, " ")
	case json.RawMessage:
		return string(v)
	}
	if v := reflect.ValueOf(s.Value); v.Kind() == reflect.Slice {
		names := make([]string, v.Len())
		for i := range names {
			names[i] = fmt.Sprint(v.Index(i))
		}
		between := ","
		if _, ok := s.Value.([]*regexp.Regexp); ok {
			between = " "
		}
		return strings.Join(names, between)
	}
	return fmt.Sprint(s.Value)
}

// Candidate is a value that a setting takes if no earlier one is there.
type Candidate[T any] struct {
	value T
	there bool
	from  string
}

// Given is a value of the options that is there if it is not zero.
func Given[T comparable](v T) Candidate[T] {
	var zero T
	return Candidate[T]{v, v != zero, "given"}
}

// Pointed is a value of the options that is there if it is not nil.
func Pointed[T any](p *T) Candidate[T] {
	c := Candidate[T]{there: p != nil, from: "given"}
	if p != nil {
		c.value = *p
	}
	return c
}

// Otherwise is a value that is always there.
func Otherwise[T any](v T, from string) Candidate[T] { return Candidate[T]{v, true, from} }

// If is a value that may be there.
func If[T any](there bool, v T, from string) Candidate[T] { return Candidate[T]{v, there, from} }

// List is what was decided.
type List []Setting

// Pick takes the first candidate that is there and remembers why.
func Pick[T any](l *List, name string, candidates ...Candidate[T]) T {
	for _, c := range candidates {
		if Tell(l, name, c) {
			return c.value
		}
	}
	panic("told: setting " + name + " has no default")
}

// Tell remembers a value that was decided, if it is there.
func Tell[T any](l *List, name string, c Candidate[T]) bool {
	if c.there {
		*l = append(*l, Setting{name, c.value, c.from})
	}
	return c.there
}

// Again replaces what is told of a setting.
func (l List) Again(name string, value any, from string) {
	for i := range l {
		if l[i].Name == name {
			l[i] = Setting{name, value, from}
		}
	}
}
