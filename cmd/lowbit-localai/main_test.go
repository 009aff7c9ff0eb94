package main

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/cmd/lowbit-localai/internal/pb"
	"github.com/golowbit/lowbit/internal/hubtest"
)

const (
	model       = "../../testdata/tinyllama-2m"
	calibration = "../../testdata/tinyllama-2m-text/calibration.txt"
	heldout     = "../../testdata/tinyllama-2m-text/heldout.txt"
)

// backend serves on a socket of its own until the test ends, or end is called.
func backend(t *testing.T, calib, token string) (client pb.BackendClient, end func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l, &server{calib: calib, jobs: map[string]*job{}}, token) }()
	c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	ended := false
	end = func() {
		if !ended {
			ended = true
			cancel()
			require.NoError(t, <-done)
			require.NoError(t, c.Close())
		}
	}
	t.Cleanup(end)
	return pb.NewBackendClient(c), end
}

// follow reads a stream to its end.
func follow(t *testing.T, c pb.BackendClient, id string, each func(*pb.QuantizationProgressUpdate)) (all []*pb.QuantizationProgressUpdate) {
	t.Helper()
	stream, err := c.QuantizationProgress(t.Context(), &pb.QuantizationProgressRequest{JobId: id})
	require.NoError(t, err)
	for {
		u, err := stream.Recv()
		if err == io.EOF {
			require.NotEmpty(t, all)
			return all
		}
		require.NoError(t, err)
		require.Equal(t, id, u.JobId)
		all = append(all, u)
		if each != nil {
			each(u)
		}
	}
}

func start(t *testing.T, c pb.BackendClient, r *pb.QuantizationRequest) {
	t.Helper()
	a, err := c.StartQuantization(t.Context(), r)
	require.NoError(t, err)
	require.True(t, a.Success)
	require.Equal(t, r.JobId, a.JobId)
}

func code(err error) codes.Code { return status.Code(err) }

func TestHealth(t *testing.T) {
	c, _ := backend(t, "", "")
	r, err := c.Health(t.Context(), &pb.HealthMessage{})
	require.NoError(t, err)
	require.Equal(t, "OK", string(r.Message))
	l, err := c.LoadModel(t.Context(), &pb.ModelOptions{})
	require.NoError(t, err)
	require.True(t, l.Success)
	s, err := c.Status(t.Context(), &pb.HealthMessage{})
	require.NoError(t, err)
	require.Equal(t, pb.StatusResponse_READY, s.State)
	require.Positive(t, s.Memory.Total)
}

func TestToken(t *testing.T) {
	c, _ := backend(t, "", "secret")
	_, err := c.Health(t.Context(), &pb.HealthMessage{})
	require.Equal(t, codes.Unauthenticated, code(err))
	stream, err := c.QuantizationProgress(t.Context(), &pb.QuantizationProgressRequest{JobId: "1"})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, codes.Unauthenticated, code(err))
	_, err = c.Health(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer secret"), &pb.HealthMessage{})
	require.NoError(t, err)
}

// TestRounded goes from start to a file, without text.
func TestRounded(t *testing.T) {
	c, _ := backend(t, "", "")
	for kind, name := range map[string]string{"": "Q4_K_M", "q4_0": "Q4_0", "Q8_0": "Q8_0"} {
		out := filepath.Join(t.TempDir(), "new")
		id := "job" + kind
		start(t, c, &pb.QuantizationRequest{Model: model, QuantizationType: kind, OutputDir: out, JobId: id})
		all := follow(t, c, id, nil)
		last := all[len(all)-1]
		require.Equal(t, completed, last.Status, last.Message)
		require.EqualValues(t, 100, last.ProgressPercent)
		require.Equal(t, filepath.Join(out, "tinyllama-2m-"+name+".gguf"), last.OutputFile)
		m, err := checkpoint.Open(last.OutputFile)
		require.NoError(t, err)
		require.NoError(t, m.Close())
		info, err := os.Stat(last.OutputFile)
		require.NoError(t, err)
		require.InEpsilon(t, float64(info.Size())/(1<<20), last.ExtraMetrics["file_size_mb"], 0.1)
		require.Greater(t, last.ExtraMetrics["compression_ratio"], float32(1.5))
		// A stream that is opened later has the end, too.
		again := follow(t, c, id, nil)
		require.Len(t, again, 1)
		require.Equal(t, last.OutputFile, again[0].OutputFile)
	}
}

// TestCalibrated follows a job with text, which measures too.
func TestCalibrated(t *testing.T) {
	c, _ := backend(t, calibration, "")
	start(t, c, &pb.QuantizationRequest{
		Model: model, QuantizationType: "q4_k_m", OutputDir: t.TempDir(), JobId: "1",
		ExtraOptions: map[string]string{"preset": "fast", "samples": "16", "eval": heldout},
	})
	layers, percent := 0, float32(0)
	all := follow(t, c, "1", func(u *pb.QuantizationProgressUpdate) {
		require.GreaterOrEqual(t, u.ProgressPercent, percent)
		percent = u.ProgressPercent
		if n, ok := u.ExtraMetrics["layers_done"]; ok {
			require.Equal(t, quantizing, u.Status)
			require.EqualValues(t, 28, u.ExtraMetrics["layers_total"])
			require.Positive(t, u.ExtraMetrics["loss"])
			layers = int(n)
		}
	})
	require.Equal(t, 28, layers)
	last := all[len(all)-1]
	require.Equal(t, completed, last.Status, last.Message)
	require.Greater(t, last.ExtraMetrics["perplexity"], last.ExtraMetrics["perplexity_before"])
	require.InDelta(t, 10.41, last.ExtraMetrics["perplexity_before"], 0.05)
}

// TestFolder is a target whose result is no file.
func TestFolder(t *testing.T) {
	c, _ := backend(t, "", "")
	start(t, c, &pb.QuantizationRequest{Model: model, QuantizationType: "mlx-lm", OutputDir: t.TempDir(), JobId: "1", ExtraOptions: map[string]string{"bits": "8", "group-size": "64"}})
	all := follow(t, c, "1", nil)
	last := all[len(all)-1]
	require.Equal(t, completed, last.Status, last.Message)
	require.Equal(t, "tinyllama-2m-mlx-lm", filepath.Base(last.OutputFile))
	m, err := checkpoint.Open(last.OutputFile)
	require.NoError(t, err)
	defer m.Close()
	require.Equal(t, "mlx", m.Format().Name())
}

// long is a job of some seconds.
func long(id, out string) *pb.QuantizationRequest {
	return &pb.QuantizationRequest{
		Model: model, QuantizationType: "q4_k_m", OutputDir: out, JobId: id,
		ExtraOptions: map[string]string{"calib": calibration, "samples": "48", "workers": "1"},
	}
}

// TestStop stops a job, and goes on with it.
func TestStop(t *testing.T) {
	c, _ := backend(t, "", "")
	out := t.TempDir()
	start(t, c, long("1", out))
	var kept float32
	all := follow(t, c, "1", func(u *pb.QuantizationProgressUpdate) {
		if n := u.ExtraMetrics["layers_done"]; n >= 4 && kept == 0 {
			kept = n
			s, err := c.Status(t.Context(), &pb.HealthMessage{})
			require.NoError(t, err)
			require.Equal(t, pb.StatusResponse_BUSY, s.State)
			r, err := c.StopQuantization(t.Context(), &pb.QuantizationStopRequest{JobId: "1"})
			require.NoError(t, err)
			require.True(t, r.Success)
			require.Equal(t, "the job is stopped", r.Message)
		}
	})
	last := all[len(all)-1]
	require.Equal(t, stopped, last.Status, last.Message)
	require.Contains(t, last.Message, "of 28 layers are finished and kept")
	file := filepath.Join(out, "tinyllama-2m-Q4_K_M.gguf")
	require.NoFileExists(t, file)
	require.DirExists(t, file+checkpoint.PartialSuffix)

	start(t, c, long("2", out))
	var said []string
	all = follow(t, c, "2", func(u *pb.QuantizationProgressUpdate) { said = append(said, u.Message) })
	last = all[len(all)-1]
	require.Equal(t, completed, last.Status, last.Message)
	require.Contains(t, strings.Join(said, "\n"), "of them finished by an earlier job")
	require.FileExists(t, file)
	require.NoDirExists(t, file+checkpoint.PartialSuffix)
}

// TestSecond has one job wait for another, one leave the queue, and others refused.
func TestSecond(t *testing.T) {
	c, end := backend(t, "", "")
	first, second := t.TempDir(), t.TempDir()
	start(t, c, long("1", first))
	_, err := c.StartQuantization(t.Context(), long("1", second))
	require.Equal(t, codes.AlreadyExists, code(err))
	_, err = c.StartQuantization(t.Context(), long("other", first))
	require.Equal(t, codes.AlreadyExists, code(err))
	require.ErrorContains(t, err, "job 1 is writing")

	start(t, c, &pb.QuantizationRequest{Model: model, OutputDir: second, JobId: "2"})
	start(t, c, long("3", t.TempDir()))
	r, err := c.StopQuantization(t.Context(), &pb.QuantizationStopRequest{JobId: "3"})
	require.NoError(t, err)
	require.True(t, r.Success)
	require.Equal(t, stopped, follow(t, c, "3", nil)[0].Status)

	ended := false
	all := follow(t, c, "2", func(u *pb.QuantizationProgressUpdate) {
		if u.Status == queued && !ended {
			ended = true
			_, err := c.StopQuantization(t.Context(), &pb.QuantizationStopRequest{JobId: "1"})
			require.NoError(t, err)
		}
	})
	require.Equal(t, queued, all[0].Status)
	require.Equal(t, completed, all[len(all)-1].Status)
	require.Equal(t, stopped, follow(t, c, "1", nil)[0].Status)

	// The end of the backend is one of its jobs, too.
	start(t, c, long("4", t.TempDir()))
	states := make(chan string, 1)
	stream, err := c.QuantizationProgress(t.Context(), &pb.QuantizationProgressRequest{JobId: "4"})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.NoError(t, err)
	go func() {
		state := ""
		for {
			u, err := stream.Recv()
			if err != nil {
				states <- state
				return
			}
			state = u.Status
		}
	}()
	begun := time.Now()
	end()
	require.Less(t, time.Since(begun), 4*time.Second)
	require.Equal(t, stopped, <-states)
}

func TestRefused(t *testing.T) {
	c, _ := backend(t, "", "")
	dir := t.TempDir()
	there := filepath.Join(dir, "tinyllama-2m-Q6_K.gguf")
	require.NoError(t, os.WriteFile(there, nil, 0o666))
	for name, test := range map[string]struct {
		change func(r *pb.QuantizationRequest)
		code   codes.Code
		want   string
	}{
		"no job":         {func(r *pb.QuantizationRequest) { r.JobId = "" }, codes.InvalidArgument, "job_id is empty"},
		"no model":       {func(r *pb.QuantizationRequest) { r.Model = "" }, codes.InvalidArgument, "model is empty"},
		"no folder":      {func(r *pb.QuantizationRequest) { r.OutputDir = "" }, codes.InvalidArgument, "output_dir is empty"},
		"a file":         {func(r *pb.QuantizationRequest) { r.OutputDir = there + "/x" }, codes.InvalidArgument, "output_dir: "},
		"type":           {func(r *pb.QuantizationRequest) { r.QuantizationType = "q4_k_xl" }, codes.InvalidArgument, `quantization_type "q4_k_xl" is unknown, want q2_k, `},
		"lossless":       {func(r *pb.QuantizationRequest) { r.QuantizationType = "f16" }, codes.InvalidArgument, "f16 quantizes nothing"},
		"option":         {func(r *pb.QuantizationRequest) { r.ExtraOptions = map[string]string{"bit": "4"} }, codes.InvalidArgument, `extra option "bit" is unknown, want bits, calib, `},
		"value":          {func(r *pb.QuantizationRequest) { r.ExtraOptions = map[string]string{"samples": "many"} }, codes.InvalidArgument, `extra option samples="many": `},
		"text":           {func(r *pb.QuantizationRequest) { r.ExtraOptions = map[string]string{"calib": "none.txt"} }, codes.InvalidArgument, "none.txt"},
		"no text":        {func(r *pb.QuantizationRequest) { r.ExtraOptions = map[string]string{"preset": "best"} }, codes.InvalidArgument, "needs calibration text: name a file in extra option calib"},
		"bits of a type": {func(r *pb.QuantizationRequest) { r.ExtraOptions = map[string]string{"bits": "3"} }, codes.InvalidArgument, "3 bits"},
		"target": {func(r *pb.QuantizationRequest) {
			r.QuantizationType, r.ExtraOptions = "mlx-lm", map[string]string{"bits": "7"}
		}, codes.InvalidArgument, "not 7"},
		"no folder of a model": {func(r *pb.QuantizationRequest) { r.Model = dir }, codes.InvalidArgument, dir},
		"there":                {func(r *pb.QuantizationRequest) { r.QuantizationType = "q6_k" }, codes.AlreadyExists, "is there already"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &pb.QuantizationRequest{Model: model, QuantizationType: "q4_k_m", OutputDir: dir, JobId: "1"}
			test.change(r)
			_, err := c.StartQuantization(t.Context(), r)
			require.Equal(t, test.code, code(err), "%v", err)
			require.ErrorContains(t, err, test.want)
		})
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1, "nothing was done")

	stream, err := c.QuantizationProgress(t.Context(), &pb.QuantizationProgressRequest{JobId: "1"})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, codes.NotFound, code(err), "%v", err)
	r, err := c.StopQuantization(t.Context(), &pb.QuantizationStopRequest{JobId: "1"})
	require.NoError(t, err)
	require.False(t, r.Success)
}

// TestHub takes a model by its name, with the token of the request.
func TestHub(t *testing.T) {
	hub := hubtest.New(t, "org/tiny", hubtest.Folder(t, model))
	hub.Token = "hf_right"
	t.Setenv("HF_ENDPOINT", hub.URL)
	t.Setenv("HF_HOME", t.TempDir())
	t.Setenv("HF_HUB_CACHE", "")
	t.Setenv("HF_HUB_OFFLINE", "")
	t.Setenv("HF_TOKEN", "hf_wrong")
	c, _ := backend(t, "", "")

	start(t, c, &pb.QuantizationRequest{Model: "org/tiny", OutputDir: t.TempDir(), JobId: "1"})
	all := follow(t, c, "1", nil)
	last := all[len(all)-1]
	require.Equal(t, failed, last.Status)
	require.Contains(t, last.Message, "org/tiny")
	require.NotContains(t, last.Message, "\n")

	out := t.TempDir()
	start(t, c, &pb.QuantizationRequest{Model: "org/tiny", OutputDir: out, JobId: "2", ExtraOptions: map[string]string{"hf_token": hub.Token}})
	all = follow(t, c, "2", nil)
	last = all[len(all)-1]
	require.Equal(t, completed, last.Status, last.Message)
	require.Equal(t, filepath.Join(out, "tiny-Q4_K_M.gguf"), last.OutputFile)
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"--addr", "127.0.0.1:0", "--with-parent"}, w) }()
	line := make([]byte, 100)
	n, err := r.Read(line)
	require.NoError(t, err)
	address := strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "listening on "))
	c, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer c.Close()
	_, err = pb.NewBackendClient(c).Health(t.Context(), &pb.HealthMessage{})
	require.NoError(t, err)
	cancel()
	require.NoError(t, <-done)
	require.ErrorContains(t, run(t.Context(), []string{"x"}, io.Discard), `there is "x"`)
}
