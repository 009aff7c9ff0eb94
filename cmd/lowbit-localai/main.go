// Command lowbit-localai is a quantization backend of LocalAI: jobs come by gRPC, and a stream
// tells how far they are. See docs/localai.md.
package main

import (
	"context"
	"crypto/subtle"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/golowbit/lowbit/cmd/lowbit-localai/internal/pb"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "lowbit-localai:", err)
		os.Exit(1)
	}
}

// run serves until ctx is cancelled or whoever started the process is gone. Jobs are stopped then,
// and their streams told.
func run(ctx context.Context, args []string, log io.Writer) error {
	flags := flag.NewFlagSet("lowbit-localai", flag.ContinueOnError)
	flags.SetOutput(log)
	addr := flags.String("addr", "localhost:50051", "`address` to listen on")
	calib := flags.String("calib", os.Getenv("LOWBIT_CALIB"), "`file` of text to calibrate on where a job names none (default $LOWBIT_CALIB)")
	parent := flags.Bool("with-parent", false, "end when the process that started this one does")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("there are no arguments but flags, and there is %q", flags.Arg(0))
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *parent {
		go func() {
			for first := os.Getppid(); os.Getppid() == first && ctx.Err() == nil; {
				time.Sleep(time.Second)
			}
			cancel()
		}()
	}
	fmt.Fprintln(log, "listening on", l.Addr())
	return serve(ctx, l, &server{calib: *calib, jobs: map[string]*job{}}, os.Getenv("LOCALAI_GRPC_AUTH_TOKEN"))
}

// serve answers calls until ctx is cancelled; with a token only those that bring it.
func serve(ctx context.Context, l net.Listener, s *server, token string) error {
	g := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := authorized(ctx, token); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := authorized(stream.Context(), token); err != nil {
				return err
			}
			return next(srv, stream)
		}),
	)
	pb.RegisterBackendServer(g, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		s.close()
		time.AfterFunc(5*time.Second, g.Stop) // for those who do not read their streams
		g.GracefulStop()
	}()
	err := g.Serve(l)
	if ctx.Err() == nil {
		return err
	}
	<-done
	return nil
}

// authorized checks the token of a call; "" asks for none.
func authorized(ctx context.Context, token string) error {
	if token == "" {
		return nil
	}
	given := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(given) == 1 && subtle.ConstantTimeCompare([]byte(given[0]), []byte("Bearer "+token)) == 1 {
		return nil
	}
	return status.Error(codes.Unauthenticated, "the token of LOCALAI_GRPC_AUTH_TOKEN is not the call's")
}
