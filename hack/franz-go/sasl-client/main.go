// Authenticates with the Kafka client franz-go, for the scenario "authentication" of hack/test-kafka.sh.
//
// Usage: sasl-client BOOTSTRAP MECHANISM USER PASSWORD CA, where CA is a PEM file, or empty for a listener without TLS. Asks the cluster for
// its metadata again and again. Prints "ok" after the first answer; prints "refused" and ends when the authentication fails.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const limit = 60 * time.Second

func mechanism(name, user, password string) (sasl.Mechanism, error) {
	switch name {
	case "PLAIN":
		return plain.Auth{User: user, Pass: password}.AsMechanism(), nil
	case "SCRAM-SHA-256":
		return scram.Auth{User: user, Pass: password}.AsSha256Mechanism(), nil
	case "SCRAM-SHA-512":
		return scram.Auth{User: user, Pass: password}.AsSha512Mechanism(), nil
	}
	return nil, fmt.Errorf("no mechanism %s", name)
}

func run(arguments []string) error {
	bootstrap, ca := arguments[0], arguments[4]
	chosen, err := mechanism(arguments[1], arguments[2], arguments[3])
	if err != nil {
		return err
	}
	options := []kgo.Opt{kgo.SeedBrokers(bootstrap), kgo.SASL(chosen)}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		options = append(options, kgo.DialTLSConfig(&tls.Config{RootCAs: roots}))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	end := time.Now().Add(limit)
	for accepted := false; time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := client.Ping(ctx)
		cancel()
		switch {
		case err == nil && !accepted:
			accepted = true
			fmt.Println("ok")
		case errors.Is(err, kerr.SaslAuthenticationFailed):
			fmt.Println("refused")
			return nil
		case err != nil:
			fmt.Fprintln(os.Stderr, err)
		}
	}
	return errors.New("neither refused nor ended in time")
}

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: sasl-client BOOTSTRAP MECHANISM USER PASSWORD CA")
		os.Exit(2)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
