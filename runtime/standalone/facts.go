package standalone

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/master"
)

// A standalone master tells those who know only its address what Kubernetes
// tells the processes of a pod: the configuration, and how the cache does. Both
// are the contract's JSON, so the service has no messages of its own.
const (
	factsService = "millrace.standalone.v1.Facts"
	configMethod = "/" + factsService + "/Config"
	stateMethod  = "/" + factsService + "/Summary"
)

// facts is the service of one master.
type facts struct {
	config *contract.RuntimeConfig
	master *master.Master
}

// register adds the service to the master's gRPC server.
func registerFacts(s *grpc.Server, config *contract.RuntimeConfig, m *master.Master) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: factsService,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Config", Handler: answer(func(f *facts) any { return f.config })},
			{MethodName: "Summary", Handler: answer(func(f *facts) any { return f.master.Summary() })},
		},
	}, &facts{config, m})
}

// answer makes a method of what it tells.
func answer(tell func(*facts) any) grpc.MethodHandler {
	return func(srv any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		if err := decode(&emptypb.Empty{}); err != nil {
			return nil, err
		}
		data, err := json.Marshal(tell(srv.(*facts)))
		if err != nil {
			return nil, err
		}
		return wrapperspb.Bytes(data), nil
	}
}

// ask calls a method and reads its answer.
func ask(ctx context.Context, conn *grpc.ClientConn, method string, into any) error {
	reply := &wrapperspb.BytesValue{}
	if err := conn.Invoke(ctx, method, &emptypb.Empty{}, reply, grpc.WaitForReady(true)); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err) // gRPC's words tell what it met last
		}
		return fmt.Errorf("ask the master at %s: %w", conn.Target(), err)
	}
	return json.Unmarshal(reply.GetValue(), into)
}
