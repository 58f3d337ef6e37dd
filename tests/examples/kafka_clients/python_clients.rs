//! Python clients: the scripts of `tests/kafka`, whose output is compared as it is.

use crate::{
    comparison::ScenarioOutput,
    programs::{output_of, python},
    subject::TestSubject,
};

/// Declares a scenario for a function of a script.
macro_rules! scenarios {
    ($($name:ident: $file:literal $function:literal;)*) => {
        $(pub(crate) fn $name(subject: &TestSubject) -> anyhow::Result<ScenarioOutput> {
            let printed = output_of(python($file, $function, &subject.bootstrap)?)?;
            Ok(printed.into())
        })*
    };
}

scenarios! {
    confluent_codecs: "confluent_client.py" "codecs";
    confluent_groups: "confluent_client.py" "groups";
    confluent_static: "confluent_client.py" "static_members";
    confluent_topics: "confluent_client.py" "topics";
    confluent_configs: "confluent_client.py" "configs";
    confluent_group_admin: "confluent_client.py" "group_admin";
    confluent_offsets: "confluent_client.py" "offsets";
    confluent_refusals: "confluent_client.py" "refusals";
    kafka_python_records: "kafka_python_client.py" "records";
    kafka_python_admin: "kafka_python_client.py" "admin";
    aiokafka_records: "aiokafka_client.py" "records";
    aiokafka_admin: "aiokafka_client.py" "admin";
    aiokafka_acks: "aiokafka_client.py" "acks";
}
