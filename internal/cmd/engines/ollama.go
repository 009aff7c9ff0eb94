package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/chat"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/internal/verified"
)

// ollamaVersion is the one that go install builds: module zips of later ones lack
// headers.
const ollamaVersion = "0.6.5"

// answerTokens are how many tokens are asked of Ollama behind a prompt.
const answerTokens = 48

// prompts are those that Ollama goes on with, likeliest token after likeliest token.
var prompts = []string{"once upon a time there was a little", "the dog saw a big", "one day, mom and"}

// The template that models for Ollama get, which it has to know by heart, and
// what it makes of a question.
const (
	chatML = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}" +
		"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
	question = "what did the dog see?"
)

// answered is what Ollama went on with behind a prompt.
type answered struct {
	prompt string
	pieces []string // the text of each token
	ended  bool     // by a token that ends an answer
	asked  int      // tokens of the prompt, as Ollama counts them
}

func (a answered) text() string { return strings.Join(a.pieces, "") }

// ollamaProgram installs Ollama, unless it is there, and returns its path.
func ollamaProgram(ctx context.Context, cache string) (string, error) {
	dir := filepath.Join(cache, "ollama-"+ollamaVersion)
	program := filepath.Join(dir, "ollama")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", "github.com/ollama/ollama@v"+ollamaVersion)
	cmd.Dir = os.TempDir() // not of this module
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=1", "GOFLAGS=")
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, tail(out))
	}
	fmt.Fprintf(os.Stderr, "ollama: built in %.0f s\n", time.Since(start).Seconds())
	return program, nil
}

// ollama is a server of its own, with nothing in it.
type ollama struct {
	url string
	log string // a file
	cmd *exec.Cmd
}

// serve starts a server in an empty home. What it calls its own engine computes
// models in place of llama.cpp if own is set.
func serve(ctx context.Context, program, home string, own bool) (*ollama, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	if err := errors.Join(l.Close(), os.MkdirAll(home, 0o755)); err != nil {
		return nil, err
	}
	o := &ollama{url: "http://" + address, log: filepath.Join(home, "log"), cmd: exec.CommandContext(ctx, program, "serve")}
	log, err := os.Create(o.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	o.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "OLLAMA_MODELS=" + filepath.Join(home, "models"),
		"OLLAMA_HOST=" + address, "OLLAMA_NUM_PARALLEL=1", "OLLAMA_MAX_LOADED_MODELS=1", fmt.Sprintf("OLLAMA_NEW_ENGINE=%t", own),
	}
	o.cmd.Stdout, o.cmd.Stderr, o.cmd.WaitDelay = log, log, 10*time.Second
	o.cmd.Cancel = func() error { return o.cmd.Process.Signal(os.Interrupt) } // it ends its runners
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	for range 100 {
		var v struct{ Version string }
		if err = o.ask(ctx, http.MethodGet, "/api/version", nil, func(d *json.Decoder) error { return d.Decode(&v) }); err == nil {
			return o, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), o.stop())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil, errors.Join(err, o.stop(), fmt.Errorf("%s: %s", o.cmd, o.said()))
}

// said is the last that the server put into its log.
func (o *ollama) said() string {
	data, err := os.ReadFile(o.log)
	if err != nil {
		return err.Error()
	}
	text := strings.TrimSpace(string(data))
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// stop ends the server.
func (o *ollama) stop() error {
	if err := o.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := o.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// ask sends a request and has the answer read.
func (o *ollama) ask(ctx context.Context, method, path string, body any, read func(*json.Decoder) error) error {
	data, ok := body.(io.Reader)
	if !ok && body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		data = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, o.url+path, data)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		text, err := io.ReadAll(io.LimitReader(response.Body, 2000))
		return errors.Join(fmt.Errorf("%s: %s: %s", path, response.Status, text), err)
	}
	if read == nil {
		return nil
	}
	return read(json.NewDecoder(response.Body))
}

// create gives the server a file under a name.
func (o *ollama) create(ctx context.Context, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	digest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	if err := o.ask(ctx, http.MethodPost, "/api/blobs/"+digest, io.Reader(f), nil); err != nil {
		return err
	}
	var status struct{ Status, Error string }
	body := map[string]any{"model": name, "files": map[string]string{filepath.Base(path): digest}, "stream": false}
	if err := o.ask(ctx, http.MethodPost, "/api/create", body, func(d *json.Decoder) error { return d.Decode(&status) }); err != nil {
		return err
	}
	if status.Status != "success" {
		return fmt.Errorf("/api/create: %s %s", status.Status, status.Error)
	}
	return nil
}

// answer has the server go on with a prompt, or, with an empty one, answer the question.
func (o *ollama) answer(ctx context.Context, name, prompt string) (answered, error) {
	a := answered{prompt: prompt}
	path, body := "/api/generate", map[string]any{
		"model": name, "prompt": prompt, "raw": true,
		"options": map[string]any{"temperature": 0, "repeat_penalty": 1, "num_predict": answerTokens, "num_ctx": 256, "num_thread": 1},
	}
	if prompt == "" {
		path = "/api/chat"
		body["messages"] = []map[string]string{{"role": "user", "content": question}}
	}
	type chunk struct {
		Response string
		Message  struct{ Content string }
		Done     bool
		Reason   string `json:"done_reason"`
		Asked    int    `json:"prompt_eval_count"`
		Error    string
	}
	return a, o.ask(ctx, http.MethodPost, path, body, func(d *json.Decoder) error {
		for {
			var c chunk
			if err := d.Decode(&c); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if c.Error != "" {
				return fmt.Errorf("%s: %s", path, c.Error)
			}
			if piece := c.Response + c.Message.Content; piece != "" {
				a.pieces = append(a.pieces, piece)
			}
			if c.Done {
				a.ended, a.asked = c.Reason == "stop", c.Asked
				return nil
			}
		}
	})
}

// ollamaServer has a server read each file, recognize its chat template and
// go on with prompts.
func (b *bench) ollamaServer(ctx context.Context, c check, program string, jobs []job) (replies []reply, err error) {
	o, err := serve(ctx, program, filepath.Join(b.work, c.name), c.own)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.stop()) }()
	later, err := b.parse(ctx, jobs)
	if errors.Is(err, errNoParser) {
		fmt.Printf("\n%s: skipped: %v\n", c.name, err)
	} else if err != nil {
		return nil, err
	}
	for i, j := range jobs {
		r := reply{Versions: map[string]string{"ollama": ollamaVersion}}
		if c.own {
			r.Versions["its own engine"] = ollamaVersion
		}
		answers, failed := o.tried(ctx, fmt.Sprintf("m%d", i), j.Model)
		if r.answers = answers; failed != nil {
			r.Error = fmt.Sprintf("%v; %s", failed, o.said())
		}
		if later != nil && r.Error == "" {
			r.Versions["the parser fs/ggml"] = later[i].Version
			if r.Error, err = later[i].unlike(j.Model); err != nil {
				return nil, err
			}
		}
		replies = append(replies, r)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return replies, nil
}

// tried is what the server makes of a file.
func (o *ollama) tried(ctx context.Context, name, path string) ([]answered, error) {
	if err := o.create(ctx, name, path); err != nil {
		return nil, err
	}
	var show struct{ Template string }
	if err := o.ask(ctx, http.MethodPost, "/api/show", map[string]string{"model": name}, func(d *json.Decoder) error { return d.Decode(&show) }); err != nil {
		return nil, err
	}
	if !strings.Contains(show.Template, "<|im_start|>{{ .Role }}") {
		return nil, fmt.Errorf("/api/show: the chat template is %q: it was not recognized", show.Template)
	}
	rendered, err := rendered()
	if err != nil {
		return nil, err
	}
	var all []answered
	for _, p := range append(slices.Clone(prompts), rendered, "") {
		a, err := o.answer(ctx, name, p)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	// As a conversation and as the text that this ought to be rendered to.
	last, asked := all[len(all)-1], all[len(all)-2]
	if last.text() != asked.text() || last.asked != asked.asked {
		return nil, fmt.Errorf("/api/chat: %q behind %d tokens, of its text as a prompt %q behind %d", last.text(), last.asked, asked.text(), asked.asked)
	}
	return all[:len(all)-1], nil
}

// rendered is the question as lowbit has the template make a prompt of it.
func rendered() (string, error) {
	t, err := chat.Compile(chatML, nil)
	if err != nil {
		return "", err
	}
	messages, err := json.Marshal([]map[string]string{{"role": "user", "content": question}})
	if err != nil {
		return "", err
	}
	conversation, err := chat.Parse(messages, "", nil)
	if err != nil {
		return "", err
	}
	text, err := t.Render(conversation)
	return text + "<|im_start|>assistant\n", err // where the answer begins
}

// withTemplate copies a model and gives the copy a chat template.
func withTemplate(source, dir string) (string, error) {
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(chatML), 0o600)
}

// follow sets the difference to how much likelier than the token that the engine
// went on with the likeliest one is at most, in standard deviations of the logits.
func follow(ctx context.Context, r *verified.Result, w *written, answers []answered, own bool) error {
	t, err := tokenizer.Open(w.source)
	if err != nil {
		return err
	}
	byText := map[string]int32{}
	for id := range int32(t.VocabSize()) {
		byText[t.Decode([]int32{id})] = id
	}
	for _, a := range answers {
		ids, ends, wrong := a.tokens(t, byText)
		if wrong != "" {
			r.Error = wrong
			return nil
		}
		if own && a.ended {
			// It takes token 0 for the end of a turn where a file names none:
			// model/models/llama of that version does not set it.
			ends = append(ends, 0)
		}
		m, err := logits(ctx, w.path, [][]int32{ids}, nil)
		if err != nil {
			return err
		}
		for i := a.asked - 1; i < m.Rows; i++ {
			next := ends
			if i+1 < len(ids) {
				next = ids[i+1 : i+2]
			}
			if len(next) > 0 {
				r.Difference = max(r.Difference, two(behind(m.Row(i), next)))
			}
		}
	}
	return nil
}

// behind is how far the likeliest of some tokens is behind the likeliest of all, in
// standard deviations of the logits.
func behind(logits []float32, some []int32) float64 {
	sum, square := 0.0, 0.0
	for _, v := range logits {
		sum, square = sum+float64(v), square+float64(v)*float64(v)
	}
	most := logits[some[0]]
	for _, id := range some {
		most = max(most, logits[id])
	}
	n := float64(len(logits))
	return float64(slices.Max(logits)-most) / math.Sqrt(square/n-sum/n*sum/n)
}

// tokens are the prompt's and those behind it, and the one that ended the answer, or
// what is wrong with them.
func (a answered) tokens(t *tokenizer.Tokenizer, byText map[string]int32) (ids, ends []int32, wrong string) {
	if bos, ok := t.BOS(); ok && t.AddsBOS() {
		ids = append(ids, bos)
	}
	ids = append(ids, t.Encode(a.prompt)...)
	if len(ids) != a.asked {
		return nil, nil, fmt.Sprintf("takes %q for %d tokens, want %d", a.prompt, a.asked, len(ids))
	}
	for _, piece := range a.pieces {
		id, ok := byText[piece]
		if !ok {
			return nil, nil, fmt.Sprintf("goes on with %q, which is no token", piece)
		}
		ids = append(ids, id)
	}
	if eos, ok := t.EOS(); ok && a.ended {
		return ids, []int32{eos}, ""
	}
	if len(a.pieces) != answerTokens {
		return nil, nil, fmt.Sprintf("goes on with %d tokens, want %d", len(a.pieces), answerTokens)
	}
	return ids, nil, ""
}

// isOllama tells whether the check is Ollama's.
func (c check) isOllama() bool { return c.engine == layout.EngineOllama }
