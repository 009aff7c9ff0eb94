// Package faults makes one error of what is wrong with many things, and one line of an error.
package faults

import (
	"errors"
	"fmt"
	"strings"
)

// ByReason collects what is wrong with named things; things with the same fault
// share a place in the text.
type ByReason struct {
	reasons []string // in the order of their first thing
	names   map[string][]string
	errs    []error // the first of each reason
}

// Add notes a fault of a thing: its reason in words, and the error it was.
func (r *ByReason) Add(name, reason string, err error) {
	if r.names == nil {
		r.names = map[string][]string{}
	}
	if r.names[reason] == nil {
		r.reasons = append(r.reasons, reason)
		r.errs = append(r.errs, err)
	}
	r.names[reason] = append(r.names[reason], name)
}

// Err is nil where nothing was added, or an error that wraps those of all
// reasons. Its text is format, whose one verb stands for names and reasons.
func (r *ByReason) Err(format string) error {
	if len(r.reasons) == 0 {
		return nil
	}
	parts := make([]string, len(r.reasons))
	for i, reason := range r.reasons {
		parts[i] = few(r.names[reason]) + ": " + reason
	}
	return &combined{fmt.Sprintf(format, strings.Join(parts, "; ")), errors.Join(r.errs...)}
}

type combined struct {
	text string
	errs error
}

func (e *combined) Error() string { return e.text }
func (e *combined) Unwrap() error { return e.errs }

// few lists the first few of many names.
func few(all []string) string {
	const most = 4
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}

// OneLine is the text of an error without line breaks.
func OneLine(err error) string {
	var parts []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}
