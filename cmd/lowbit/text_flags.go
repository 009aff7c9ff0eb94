package main

import (
	"io"

	"github.com/spf13/pflag"

	"github.com/golowbit/lowbit"
)

// textFlags are flags that name text, and say how it is read.
type textFlags struct {
	files       []string
	stdin       bool
	perDocument bool
	bos         *bool
	field       string
	maxBytes    int64
}

// register adds the flag that names the text.
func (f *textFlags) register(s *pflag.FlagSet, name, what string) {
	option(s, name, "`file` of "+what+": UTF-8 text, or JSON lines; - is standard input (repeatable)", func(v string) (string, error) { return v, nil }, func(v string) {
		if v == "-" {
			f.stdin = true
			return
		}
		f.files = append(f.files, v)
	})
}

// registerReading adds the flags that say how text is read.
func (f *textFlags) registerReading(s *pflag.FlagSet) {
	s.BoolVar(&f.perDocument, "per-document", false, "encode every document (text between blank lines, or a JSON line) by itself, after a beginning-of-sequence token if the tokenizer adds one")
	boolOption(s, "bos", "with --per-document, that token or none, whatever the tokenizer does", func(v bool) { f.bos = &v })
	s.Int64Var(&f.maxBytes, "max-text", 0, "the most `bytes` that each text may have (default 1 GiB)")
	s.StringVar(&f.field, "field", "", "`key` of the text in JSON lines (default \"text\")")
}

func (f *textFlags) given() bool { return f.stdin || len(f.files) > 0 }

func (f *textFlags) text(stdin io.Reader) lowbit.Text {
	t := lowbit.Text{Files: f.files, PerDocument: f.perDocument, BOS: f.bos, Field: f.field, MaxBytes: f.maxBytes}
	if f.stdin {
		t.Readers = []io.Reader{stdin}
	}
	return t
}
