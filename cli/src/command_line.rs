//! The definition of the command line: the subcommands with their arguments, and the dispatch to
//! the function that runs each.

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    acl, bench, cluster,
    command_error::CommandResult,
    completions, consume,
    context::{CommandContext, GlobalArgs},
    group,
    output::OutputFormat,
    password::PasswordVariable,
    produce, topic, user,
};

const EXAMPLES: &str = "\
Examples:
  streamhouse topic create orders --partitions 4
  echo 'customer-1:two pounds of tea' | streamhouse produce orders --key-separator :
  streamhouse consume orders --from-beginning --exit-at-end -f '%p@%o %k: %v\\n'
  streamhouse consume orders --group billing --from-beginning
  streamhouse group describe billing
  streamhouse acl add --allow-principal User:alice --operation Read --topic orders
  streamhouse bench produce --topic bench --partitions 4 --records 1000000

Traces:
  OTEL_EXPORTER_OTLP_ENDPOINT sets the OTLP receiver of spans (gRPC); OTEL_TRACES_SAMPLER sets the sampling";

/// Produce, consume and manage StreamHouse topics.
#[derive(Debug, Parser)]
#[command(name = "streamhouse", version, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Manage topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Produce records from a file or standard input, one per line
    Produce(produce::ProduceArgs),
    /// Consume and print records
    Consume(consume::ConsumeArgs),
    /// Manage consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Manage users and their passwords
    #[command(subcommand)]
    User(user::UserCommand),
    /// Manage access control lists
    #[command(subcommand)]
    Acl(acl::AclCommand),
    /// Show the agents, leases, versions and stores of the cluster
    Cluster,
    /// Benchmark throughput, latency and cost
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print a shell completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Returns the output format of errors.
    pub(crate) fn format(&self) -> OutputFormat {
        self.global.output
    }

    /// Sets the password that the environment has.
    pub(crate) fn with_password(mut self, password: PasswordVariable) -> Self {
        self.global.password = password;
        self
    }

    /// Runs the command.
    pub(crate) async fn run(self) -> CommandResult {
        if let CliCommand::Completions { shell } = self.command {
            return completions::run(Self::command(), shell);
        }
        init_stderr_logging(self.global.verbose);
        let context = CommandContext::new(&self.global)?;
        match self.command {
            CliCommand::Topic(command) => topic::run(&context, command).await,
            CliCommand::Produce(args) => produce::run(&context, args).await,
            CliCommand::Consume(args) => consume::run(&context, args).await,
            CliCommand::Group(command) => group::run(&context, command).await,
            CliCommand::User(command) => user::run(&context, command).await,
            CliCommand::Acl(command) => acl::run(&context, command).await,
            CliCommand::Cluster => cluster::run(&context).await,
            CliCommand::Bench(command) => bench::run(&context, command).await,
            CliCommand::Completions { .. } => Ok(()),
        }
    }
}

fn init_stderr_logging(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let mut filter = format!("streamhouse={level},streamhouse_client={level}");
    if verbose == 0 {
        // Warnings about skipped or repeated records are always shown.
        filter.push_str(",streamhouse_client::gaps=warn");
    }
    // Fails only if a subscriber is already set, which no other code in this process does.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .try_init();
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, ValueEnum};
    use clap_complete::Shell;

    use super::*;
    use crate::arguments;

    fn parse(args: &str) -> Result<Cli, clap::Error> {
        let args = std::iter::once("streamhouse").chain(args.split_whitespace());
        let matches = arguments::definition().try_get_matches_from(args)?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_definition_is_sound() {
        arguments::definition().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        for args in [
            "-o json topic list",
            "topic list -o json",
            "topic -o json list --timeout 5s",
        ] {
            assert_eq!(parse(args).unwrap().format(), OutputFormat::Json, "{args}");
        }
    }

    #[test]
    fn commands_are_taken_as_documented() {
        for args in [
            "topic create a --partitions 4 --config retention.ms=1 --config segment.ms=2 --if-not-exists",
            "topic alter a --partitions 8",
            "topic alter a --reset segment.ms",
            "topic delete-records a --partition 0 --before-offset -1",
            "topic offsets a --at-timestamp 2026-01-01T00:00:00Z",
            "produce a --file f --key-separator \\t --header a=b --header c=d --compression none --acks all",
            "consume a b --group g --from-beginning --exit-at-end",
            "consume a --group g --session-timeout 10s",
            "produce a --crlf",
            "topic list --tls-cert c.pem --tls-key k.pem",
            "consume a --partition 0 --partition 2 --offset 7 --max-messages 3",
            "consume a --at-timestamp 5 -f %v\\n",
            "group reset-offsets g --topic a --topic b:0,1 --shift-by -10 --execute",
            "user list --user admin --password-file f",
            "user put alice --new-password-file - --mechanism scram-sha-512",
            "user put alice --mechanism SCRAM-SHA-512 --mechanism SCRAM-SHA-256",
            "user delete alice",
            "acl list --topic orders --pattern match -o json",
            "acl add --allow-principal User:alice --operation Read --operation Describe --topic orders --prefixed",
            "acl add --deny-principal User:* --operation all --cluster --host 10.0.0.1",
            "acl delete --principal User:alice --dry-run",
            "acl explain User:alice Read --topic orders --host 10.0.0.1",
            "cluster",
            "completions bash",
            "bench produce --records 10 --rate 1000 --agent-http h:1 --agent-http h:2",
            "bench consume --topic t --consumers 3",
            "bench e2e --duration 5 --warmup 1s",
        ] {
            if let Err(error) = parse(args) {
                panic!("{args}: {error}");
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for args in [
            "",
            "topic create a --partitions 0",
            "topic alter a",
            "topic delete-records a --partition 0 --before-offset -2",
            "produce a --acks 1",
            "produce a --compression zstd",
            "consume",
            "consume a --offset 3",
            "consume a --from-beginning --at-timestamp 5",
            "consume a --group g --at-timestamp 5",
            "consume a --group g --partition 1",
            "consume a --session-timeout 10s",
            "consume a --group g --session-timeout 0",
            "consume a -f text",
            "group reset-offsets g --topic a",
            "group reset-offsets g --topic a --to-latest --to-earliest",
            "group reset-offsets g --topic a --to-latest --dry-run --execute",
            "user put",
            "user put alice --password secret",
            "acl add --allow-principal User:alice --topic orders",
            "acl add --operation Read --topic orders",
            "acl add --allow-principal alice --operation Read --topic orders",
            "acl add --allow-principal User:alice --operation Fly --topic orders",
            "acl list --topic orders --prefixed --pattern match",
            "acl explain User:alice --topic orders",
            "acl explain User:alice Read --topic orders --prefixed",
            "bench produce --records 10 --duration 5s",
            "bench produce --rate 0",
            "topic list --timeout 0",
        ] {
            assert!(parse(args).is_err(), "{args}");
        }
    }

    #[test]
    fn every_shell_completes_the_commands() {
        for shell in Shell::value_variants() {
            let script = completions::generate_script(Cli::command(), *shell);
            assert!(
                String::from_utf8(script).unwrap().contains("reset-offsets"),
                "{shell}"
            );
        }
    }
}
