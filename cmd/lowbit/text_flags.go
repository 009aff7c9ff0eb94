package main

import (
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/golowbit/lowbit"
)

// textFlags are flags that name text, and say how it is read.
type textFlags struct {
	files       []string
	weights     []float64 // of files
	weighted    bool
	stdin       bool
	perDocument bool
	bos         *bool
	field       string
	maxBytes    int64
}

// register adds the flag that names the text.
func (f *textFlags) register(s *pflag.FlagSet, name, what, more string) {
	option(s, name, "`file` of "+what+", or a folder of such: UTF-8 text, JSON, JSON lines or a parquet table of texts or chats, also packed by gzip or zstd; - is standard input (repeatable"+more+")", func(v string) (string, error) { return v, nil }, func(v string) {
		if v == "-" {
			f.stdin = true
			return
		}
		weight := 1.0
		if file, w, ok := weighted(v); ok {
			v, weight, f.weighted = file, w, true
		}
		f.files = append(f.files, v)
		f.weights = append(f.weights, weight)
	})
}

// weighted splits FILE@WEIGHT. A file that has such a name is no weighted one.
func weighted(arg string) (file string, weight float64, ok bool) {
	i := strings.LastIndexByte(arg, '@')
	if i < 1 {
		return "", 0, false
	}
	weight, err := strconv.ParseFloat(arg[i+1:], 64)
	if err != nil {
		return "", 0, false
	}
	if _, err := os.Lstat(arg); err == nil {
		return "", 0, false
	}
	return arg[:i], weight, true
}

// registerReading adds the flags that say how text is read.
func (f *textFlags) registerReading(s *pflag.FlagSet) {
	s.BoolVar(&f.perDocument, "per-document", false, "encode every document (text between blank lines, a JSON text, a chat) by itself, after a beginning-of-sequence token if the tokenizer adds one and, of a chat, if its template does")
	boolOption(s, "bos", "with --per-document, that token or none, whatever the tokenizer does; never a second one", func(v bool) { f.bos = &v })
	s.Int64Var(&f.maxBytes, "max-text", 0, "the most `bytes` that each text may have, unpacked (default 1 GiB)")
	s.StringVar(&f.field, "field", "", "`key` of the text, or of a chat's messages, in JSON and tables (default \"text\", else \"messages\", else \"conversations\")")
}

func (f *textFlags) given() bool { return f.stdin || len(f.files) > 0 }

func (f *textFlags) text(stdin io.Reader) lowbit.Text {
	t := lowbit.Text{Files: f.files, PerDocument: f.perDocument, BOS: f.bos, Field: f.field, MaxBytes: f.maxBytes}
	if f.weighted {
		t.Weights = f.weights
	}
	if f.stdin {
		t.Readers = []io.Reader{stdin}
	}
	return t
}
