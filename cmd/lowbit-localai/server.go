package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit-localai/internal/pb"
	"github.com/golowbit/lowbit/internal/memory"
)

// server is the backend. One job runs at a time, as each may use all memory that is not taken;
// others wait in the order in which they came.
type server struct {
	pb.UnimplementedBackendServer

	calib string // text to calibrate on where a job names none

	mu     sync.Mutex
	jobs   map[string]*job
	turn   <-chan struct{} // closed when the next job may begin; nil before the first
	closed bool
}

// Health says that the process is there.
func (s *server) Health(context.Context, *pb.HealthMessage) (*pb.Reply, error) {
	return &pb.Reply{Message: []byte("OK")}, nil
}

// LoadModel has nothing to load: a job names its model.
func (s *server) LoadModel(context.Context, *pb.ModelOptions) (*pb.Result, error) {
	return &pb.Result{Success: true, Message: "OK"}, nil
}

// Free has nothing to free beyond what jobs hold, which they let go of when they end.
func (s *server) Free(context.Context, *pb.HealthMessage) (*pb.Result, error) {
	return &pb.Result{Success: true, Message: "OK"}, nil
}

// Status tells whether a job runs or waits, and what memory the process has had at most.
func (s *server) Status(context.Context, *pb.HealthMessage) (*pb.StatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &pb.StatusResponse{State: pb.StatusResponse_READY, Memory: &pb.MemoryUsageData{Total: uint64(memory.Peak())}}
	for _, j := range s.jobs {
		if !j.ended() {
			r.State = pb.StatusResponse_BUSY
		}
	}
	return r, nil
}

// StartQuantization begins a job. What can be known to be wrong with it is an error: what it asks
// for and, if its model is on the disk, what the model's headers say.
func (s *server) StartQuantization(_ context.Context, r *pb.QuantizationRequest) (*pb.QuantizationJobResult, error) {
	o, err := s.options(r)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if _, err := os.Stat(r.Model); err == nil {
		if err := checkLocal(o.Options); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, status.Error(codes.Unavailable, "the backend is about to end")
	}
	if j := s.jobs[r.JobId]; j != nil {
		return nil, status.Errorf(codes.AlreadyExists, "job %s is there already, and %s", r.JobId, j.state())
	}
	for id, j := range s.jobs {
		if !j.ended() && j.options.Output == o.Output {
			return nil, status.Errorf(codes.AlreadyExists, "job %s is writing %s", id, o.Output)
		}
	}
	if _, err := os.Lstat(o.Output); err == nil {
		return nil, status.Errorf(codes.AlreadyExists, "%s is there already", o.Output)
	}
	if err := os.MkdirAll(r.OutputDir, 0o777); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "output_dir: %v", err)
	}
	j := newJob(r.JobId, o)
	s.jobs[r.JobId] = j
	go j.run(s.turn)
	s.turn = j.free
	return &pb.QuantizationJobResult{JobId: r.JobId, Success: true, Message: "job started: " + o.Output}, nil
}

// checkLocal is an error where lowbit would refuse the work on a model that is there.
func checkLocal(o lowbit.Options) error {
	p, err := lowbit.Resolve(o)
	if err == nil && p.NeedsText && len(o.Calibration.Files) == 0 {
		err = fmt.Errorf("%w: name a file in extra option calib", lowbit.ErrNeedsText)
	}
	return err
}

// QuantizationProgress tells how far a job is, from the last that there is to say on, until it has ended.
func (s *server) QuantizationProgress(r *pb.QuantizationProgressRequest, stream grpc.ServerStreamingServer[pb.QuantizationProgressUpdate]) error {
	j := s.job(r.JobId)
	if j == nil {
		return status.Errorf(codes.NotFound, "there is no job %q", r.JobId)
	}
	for next := -1; ; {
		updates, last, more := j.since(next)
		for _, u := range updates {
			if err := stream.Send(u); err != nil {
				return err
			}
		}
		if more == nil {
			return nil
		}
		next = last
		select {
		case <-more:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// StopQuantization stops a job and returns when it has ended, within about a second.
func (s *server) StopQuantization(ctx context.Context, r *pb.QuantizationStopRequest) (*pb.Result, error) {
	j := s.job(r.JobId)
	if j == nil {
		return &pb.Result{Message: fmt.Sprintf("there is no job %q", r.JobId)}, nil
	}
	if !j.stop(ctx) {
		return nil, ctx.Err()
	}
	return &pb.Result{Success: true, Message: "the job is " + j.state()}, nil
}

func (s *server) job(id string) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[id]
}

// close stops all jobs, and takes no more.
func (s *server) close() {
	s.mu.Lock()
	s.closed = true
	var all []*job
	for _, j := range s.jobs {
		all = append(all, j)
		j.cancel()
	}
	s.mu.Unlock()
	for _, j := range all {
		<-j.done
	}
}
