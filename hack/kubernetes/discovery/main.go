// Program discovery finds the targets of a configuration of Prometheus in Kubernetes as Prometheus itself does, with Prometheus' own
// package, for one that is built without it, as Debian's is.
//
// usage: discovery CONFIGURATION FOLDER
//
// FOLDER gets files of targets, written anew whenever the targets change, and prometheus.yml: the configuration with these files in
// place of Kubernetes. It is written last and whole, so once it is there, Prometheus can start.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"gopkg.in/yaml.v2"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: discovery CONFIGURATION FOLDER")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, file, folder string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var configuration struct {
		Jobs []yaml.MapSlice `yaml:"scrape_configs"`
		Rest map[string]any  `yaml:",inline"`
	}
	if err := yaml.Unmarshal(text, &configuration); err != nil {
		return err
	}
	ended := make(chan error)
	watched := 0
	for number := range configuration.Jobs {
		for at, part := range configuration.Jobs[number] {
			if part.Key != "kubernetes_sd_configs" {
				continue
			}
			targets := filepath.Join(folder, fmt.Sprintf("targets-%d.json", number))
			discoverer, err := discovererOf(part.Value)
			if err != nil {
				return err
			}
			go func() { ended <- follow(ctx, discoverer, targets) }()
			watched++
			configuration.Jobs[number][at] = yaml.MapItem{
				Key:   "file_sd_configs",
				Value: []any{map[string]any{"files": []string{targets}}},
			}
		}
	}
	if watched == 0 {
		return errors.New("no job of the configuration looks for targets in Kubernetes")
	}
	text, err = yaml.Marshal(&configuration)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(folder, "prometheus.yml"), text); err != nil {
		return err
	}
	return <-ended
}

// discovererOf makes a discoverer of a job's part about Kubernetes.
func discovererOf(part any) (discovery.Discoverer, error) {
	text, err := yaml.Marshal(part)
	if err != nil {
		return nil, err
	}
	var configs []*kubernetes.SDConfig
	if err := yaml.UnmarshalStrict(text, &configs); err != nil {
		return nil, err
	}
	if len(configs) != 1 {
		return nil, fmt.Errorf("a job looks for targets in Kubernetes in %d ways, and only one is known here", len(configs))
	}
	registry := prometheus.NewRegistry()
	metrics := configs[0].NewDiscovererMetrics(registry, discovery.NewRefreshMetrics(registry))
	if err := metrics.Register(); err != nil {
		return nil, err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return configs[0].NewDiscoverer(discovery.DiscovererOptions{Logger: logger, Metrics: metrics})
}

// follow writes what the discoverer finds, until the context ends.
func follow(ctx context.Context, discoverer discovery.Discoverer, file string) error {
	found := make(chan []*targetgroup.Group)
	go discoverer.Run(ctx, found)
	groups := map[string]*targetgroup.Group{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case changed := <-found:
			for _, group := range changed {
				groups[group.Source] = group
			}
			if err := write(file, groups); err != nil {
				return err
			}
		}
	}
}

// target is a group of one, as files of targets have them.
type target struct {
	Targets []string       `json:"targets"`
	Labels  model.LabelSet `json:"labels"`
}

func write(file string, groups map[string]*targetgroup.Group) error {
	targets := []target{}
	for _, group := range groups {
		for _, one := range group.Targets {
			labels := group.Labels.Merge(one)
			address := string(labels[model.AddressLabel])
			delete(labels, model.AddressLabel)
			targets = append(targets, target{Targets: []string{address}, Labels: labels})
		}
	}
	text, err := json.Marshal(targets)
	if err != nil {
		return err
	}
	return replace(file, text)
}

// replace puts a file in another's place at once.
func replace(file string, text []byte) error {
	if err := os.WriteFile(file+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
