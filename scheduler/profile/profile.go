// Package profile writes the configuration of Millrace's scheduler. The chart
// and the local cluster install what it writes.
package profile

import (
	"bytes"
	"text/template"

	"github.com/millrace/millrace/scheduler/cachelocality"
)

// DefaultWeight lets bytes win over the stock plugins that spread pods: those
// weigh 1 to 3 each and share 0 to 100 as CacheLocality does.
const DefaultWeight = 10

// Options of a configuration.
type Options struct {
	// Kubeconfig is a path; empty means the pod's service account.
	Kubeconfig string
	// SchedulerName that pods ask for; empty means default-scheduler.
	SchedulerName string
	// Weight of CacheLocality; 0 means DefaultWeight, less than 0 leaves the
	// plugin out: the stock scheduler.
	Weight int
	// LeaseNamespace turns leader election on, by a Lease in this namespace.
	LeaseNamespace string
	// Gangs turns the coscheduling plugin on. The scheduler then waits at
	// start until the kind PodGroup exists.
	Gangs bool
}

// Configuration is a KubeSchedulerConfiguration as YAML.
func Configuration(o Options) []byte {
	if o.SchedulerName == "" {
		o.SchedulerName = "default-scheduler"
	}
	if o.Weight == 0 {
		o.Weight = DefaultWeight
	}
	var out bytes.Buffer
	if err := text.Execute(&out, struct {
		Options
		Plugin string
	}{o, cachelocality.Name}); err != nil {
		panic(err) // the template and its data are of this package
	}
	return out.Bytes()
}

var text = template.Must(template.New("configuration").Parse(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
{{- with .Kubeconfig}}
clientConnection:
  kubeconfig: {{printf "%q" .}}
{{- end}}
leaderElection:
  leaderElect: {{if .LeaseNamespace}}true{{else}}false{{end}}
{{- with .LeaseNamespace}}
  resourceName: millrace-scheduler
  resourceNamespace: {{.}}
{{- end}}
profiles:
  - schedulerName: {{.SchedulerName}}
{{- if or .Gangs (gt .Weight 0)}}
    plugins:
      multiPoint:
        enabled:
{{- if gt .Weight 0}}
          - name: {{.Plugin}}
            weight: {{.Weight}}
{{- end}}
{{- if .Gangs}}
          - name: Coscheduling
{{- end}}
{{- end}}
{{- if .Gangs}}
      queueSort:
        disabled:
          - name: "*"
        enabled:
          - name: Coscheduling
{{- end}}
`))
