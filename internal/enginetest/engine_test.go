package enginetest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/tensor"
)

// engineEnv names the folder that holds node_modules.
const engineEnv = "LOWBIT_LLAMACPP"

// job is what llamacpp.mjs is asked; see there.
type job struct {
	Model     string    `json:"model"`
	VocabOnly bool      `json:"vocabOnly,omitempty"`
	Texts     []string  `json:"texts,omitempty"`
	Special   bool      `json:"special,omitempty"`
	Windows   [][]int32 `json:"windows,omitempty"`
	Logits    string    `json:"logits,omitempty"`
	Prompt    []int32   `json:"prompt,omitempty"`
	Generate  int       `json:"generate,omitempty"`

	// bare: the file has a vocabulary and no tensors. node-llama-cpp looks for some
	// to foresee the memory, and goes on.
	bare bool
}

type answer struct {
	IDs       [][]int32 `json:"ids"`
	BOS       *int32    `json:"bos"`
	EOS       *int32    `json:"eos"`
	AddBOS    bool      `json:"addBOS"`
	Rows      int       `json:"rows"`
	Vocab     int       `json:"vocab"`
	Generated []int32   `json:"generated"`

	logits *tensor.Matrix // a row for each token of the windows
}

// engine skips the test where llama.cpp is not there.
func engine(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(engineEnv)
	if dir == "" {
		t.Skipf("needs llama.cpp: set %s as .ci/llamacpp.sh prints it", engineEnv)
	}
	if _, err := exec.LookPath("node"); err != nil {
		t.Skipf("needs Node to run llama.cpp: %v", err)
	}
	return dir
}

// run asks llama.cpp, one process for all jobs.
func run(t testing.TB, jobs ...job) []answer {
	t.Helper()
	dir := engine(t)
	tmp := t.TempDir()
	for i := range jobs {
		jobs[i].Logits = filepath.Join(tmp, fmt.Sprintf("logits-%d", i))
	}
	data, err := json.Marshal(jobs)
	require.NoError(t, err)
	in, out := filepath.Join(tmp, "request.json"), filepath.Join(tmp, "reply.json")
	require.NoError(t, os.WriteFile(in, data, 0o600))
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join(filepath.Dir(file), "llamacpp.mjs"), dir, in, out)
	cmd.WaitDelay = 10 * time.Second
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	// A warning of the engine's is a fault of the file's. Except that it finds
	// fault with ordinary tokens that look like special ones, and says so where it
	// follows the file's factor of YaRN; and its guess of the file's type does not know
	// MXFP4 and NVFP4, which it reads.
	for line := range strings.Lines(string(said)) {
		if strings.Contains(line, "setting new yarn_attn_factor") || strings.Contains(line, "unknown type mxfp4") || strings.Contains(line, "unknown type nvfp4") {
			continue
		}
		if jobs[0].bare && (strings.Contains(line, "missing tensor 'token_embd.weight'") || strings.Contains(line, "failed to load model") || strings.Contains(line, "Failed simulating model resource usage")) {
			continue
		}
		require.Contains(t, line, "control-looking token", "%s", said)
	}
	data, err = os.ReadFile(out)
	require.NoError(t, err)
	var reply struct {
		Version string   `json:"version"`
		System  string   `json:"system"`
		Jobs    []answer `json:"jobs"`
	}
	require.NoError(t, json.Unmarshal(data, &reply))
	t.Logf("node-llama-cpp %s, %s", reply.Version, reply.System)
	require.Len(t, reply.Jobs, len(jobs))
	for i := range jobs {
		readLogits(t, jobs[i], &reply.Jobs[i])
	}
	return reply.Jobs
}

func readLogits(t testing.TB, j job, a *answer) {
	t.Helper()
	require.Len(t, a.IDs, len(j.Texts))
	tokens := 0
	for _, w := range j.Windows {
		tokens += len(w)
	}
	require.Equal(t, tokens, a.Rows)
	if tokens == 0 {
		return
	}
	data, err := os.ReadFile(j.Logits)
	require.NoError(t, err)
	require.Len(t, data, 4*a.Rows*a.Vocab)
	a.logits = tensor.New(a.Rows, a.Vocab)
	for i := range a.logits.Data {
		a.logits.Data[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
}
