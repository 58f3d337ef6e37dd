//! DescribeClientQuotas and AlterClientQuotas.

use std::collections::{BTreeMap, HashSet};

use streamhouse_core::{
    kafka::{
        AlterClientQuotasEntityData, AlterClientQuotasEntityResult, AlterClientQuotasEntryData,
        AlterClientQuotasEntryResult, AlterClientQuotasOpData, AlterClientQuotasRequest,
        AlterClientQuotasResponse, DescribeClientQuotasEntityData, DescribeClientQuotasEntryData,
        DescribeClientQuotasRequest, DescribeClientQuotasResponse, DescribeClientQuotasValueData,
    },
    security::{
        AclOperation, QuotaEntity, QuotaEntityType, QuotaError, QuotaFilter, QuotaKey, QuotaMatch, QuotaName,
    },
};
use streamhouse_metadata::{ClientQuotaId, ClientQuotaRow, MAX_SECURITY_NAME_BYTES, QuotaAlteration};

use super::{
    error::UNSUPPORTED_VERSION,
    request::RequestContext,
    security_admin::{AdminRefusal, catch_up, fail_valid, result_fields},
};

/// Serves DescribeClientQuotas.
pub(super) async fn describe_client_quotas(
    context: RequestContext,
    request: DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    let described = described_quotas(&context, request).await;
    let (error_code, error_message) = result_fields(&described);
    DescribeClientQuotasResponse {
        error_code,
        error_message,
        entries: described.ok(),
        ..DescribeClientQuotasResponse::default()
    }
}

async fn described_quotas(
    context: &RequestContext,
    request: DescribeClientQuotasRequest,
) -> Result<Vec<DescribeClientQuotasEntryData>, AdminRefusal> {
    context.access().check_cluster(AclOperation::DescribeConfigs)?;
    let filter = read_filter(request).map_err(|problem| match problem {
        QuotaError::UnknownEntityType(_) => AdminRefusal::new(UNSUPPORTED_VERSION, problem),
        _ => AdminRefusal::invalid(problem),
    })?;
    catch_up(context).await;
    let view = context.client.deps.security.loaded()?;
    let mut entries: BTreeMap<&QuotaEntity, Vec<DescribeClientQuotasValueData>> = BTreeMap::new();
    for (entity, key, value) in view.quota_values() {
        if filter.matches(entity) {
            let values = entries.entry(entity).or_default();
            values.push(DescribeClientQuotasValueData {
                key: key.name().to_owned(),
                value: *value,
            });
        }
    }
    let entries = entries
        .into_iter()
        .map(|(entity, values)| DescribeClientQuotasEntryData {
            entity: described_entity(entity),
            values,
        });
    Ok(entries.collect())
}

fn read_filter(request: DescribeClientQuotasRequest) -> Result<QuotaFilter, QuotaError> {
    let mut components = Vec::with_capacity(request.components.len().min(QuotaEntityType::ALL.len()));
    for component in request.components {
        let wanted = QuotaMatch::from_code(component.match_type, component.match_name)?;
        components.push((component.entity_type.parse()?, wanted));
    }
    QuotaFilter::new(components, request.strict)
}

fn described_entity(entity: &QuotaEntity) -> Vec<DescribeClientQuotasEntityData> {
    let parts = entity.parts().map(|(part, name)| DescribeClientQuotasEntityData {
        entity_type: part.name().to_owned(),
        entity_name: name.as_deref().map(str::to_owned),
    });
    parts.collect()
}

/// Serves AlterClientQuotas: for each entity everything or nothing.
pub(super) async fn alter_client_quotas(
    context: RequestContext,
    request: AlterClientQuotasRequest,
) -> AlterClientQuotasResponse {
    let allowed = context.access().check_cluster(AclOperation::AlterConfigs);
    let allowed = allowed.map_err(AdminRefusal::from);
    let mut named = HashSet::new();
    let mut alteration = QuotaAlteration::default();
    let planned = request.entries.iter().map(|entry| {
        allowed.clone()?;
        let entity = read_entity(&entry.entity).map_err(AdminRefusal::invalid)?;
        if !named.insert(entity.clone()) {
            return Err(AdminRefusal::invalid(format!(
                "the request names the quotas of {entity} more than once"
            )));
        }
        let of_entity = plan_entry(&entity, &entry.ops)?;
        alteration.upserts.extend(of_entity.upserts);
        alteration.removals.extend(of_entity.removals);
        Ok(())
    });
    let mut results: Vec<Result<(), AdminRefusal>> = planned.collect();
    if !request.validate_only
        && let Err(refusal) = store(&context, &alteration).await
    {
        fail_valid(&mut results, &refusal);
    }
    let entries = request.entries.into_iter().zip(&results);
    AlterClientQuotasResponse {
        entries: entries
            .map(|(entry, result)| entry_result(entry, result))
            .collect(),
        ..AlterClientQuotasResponse::default()
    }
}

fn read_entity(parts: &[AlterClientQuotasEntityData]) -> Result<QuotaEntity, QuotaError> {
    let mut read = Vec::with_capacity(parts.len().min(QuotaEntityType::ALL.len()));
    for part in parts {
        let name = match &part.entity_name {
            Some(name) => QuotaName::Named(name.clone()),
            None => QuotaName::Default,
        };
        read.push((part.entity_type.parse()?, name));
    }
    QuotaEntity::new(read)
}

fn plan_entry(
    entity: &QuotaEntity,
    ops: &[AlterClientQuotasOpData],
) -> Result<QuotaAlteration, AdminRefusal> {
    let is_long = |name: &QuotaName| name.as_deref().unwrap_or_default().len() > MAX_SECURITY_NAME_BYTES;
    if entity.parts().any(|(_, name)| is_long(name)) {
        return Err(AdminRefusal::invalid(format!(
            "the name of an entity is longer than {MAX_SECURITY_NAME_BYTES} bytes"
        )));
    }
    let (mut keys, mut plan) = (HashSet::new(), QuotaAlteration::default());
    for op in ops {
        if !keys.insert(&op.key) {
            return Err(AdminRefusal::invalid(format!(
                "the request sets {} more than once for one entity",
                op.key
            )));
        }
        let key: Result<QuotaKey, QuotaError> = op.key.parse();
        match key {
            // What cannot be set is not there.
            Err(_) if op.remove => {}
            Err(problem) => return Err(AdminRefusal::invalid(problem)),
            Ok(key) if op.remove => plan.removals.push(ClientQuotaId::new(entity, key)),
            Ok(key) => {
                key.validate(entity, op.value).map_err(AdminRefusal::invalid)?;
                plan.upserts.push(ClientQuotaRow {
                    id: ClientQuotaId::new(entity, key),
                    value: op.value,
                });
            }
        }
    }
    Ok(plan)
}

async fn store(context: &RequestContext, alteration: &QuotaAlteration) -> Result<(), AdminRefusal> {
    let (set, removed) = (alteration.upserts.len(), alteration.removals.len());
    if set + removed == 0 {
        return Ok(());
    }
    let metadata = &context.client.deps.metadata;
    metadata.alter_client_quotas(alteration).await?;
    let by = context.access().principal();
    tracing::info!(%by, set, removed, "client quotas altered");
    catch_up(context).await;
    Ok(())
}

fn entry_result(
    entry: AlterClientQuotasEntryData,
    result: &Result<(), AdminRefusal>,
) -> AlterClientQuotasEntryResult {
    let (error_code, error_message) = result_fields(result);
    let parts = entry
        .entity
        .into_iter()
        .map(|part| AlterClientQuotasEntityResult {
            entity_type: part.entity_type,
            entity_name: part.entity_name,
        });
    AlterClientQuotasEntryResult {
        error_code,
        error_message,
        entity: parts.collect(),
    }
}
