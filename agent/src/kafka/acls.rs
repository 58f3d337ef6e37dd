//! DescribeAcls, CreateAcls and DeleteAcls.

use std::collections::{BTreeMap, BTreeSet};

use streamhouse_core::{
    kafka::{
        CreateAclsAclCreation, CreateAclsAclCreationResult, CreateAclsRequest, CreateAclsResponse,
        DeleteAclsFilter, DeleteAclsFilterResult, DeleteAclsMatchingAcl, DeleteAclsRequest,
        DeleteAclsResponse, DescribeAclsAclDescription, DescribeAclsRequest, DescribeAclsResource,
        DescribeAclsResponse,
    },
    security::{
        AclBinding, AclError, AclFilter, AclOperation, AclPatternFilter, AclPatternType, AclPermission,
        AclResourceType,
    },
};
use streamhouse_metadata::{
    AclRow, MAX_ACLS, MAX_SECURITY_CHANGES, MAX_SECURITY_NAME_BYTES, MAX_SECURITY_PRINCIPAL_BYTES,
};

use super::{
    request::RequestContext,
    security_admin::{AdminRefusal, catch_up, fail_valid, result_fields},
};

const SECURITY_DISABLED: i16 = 54;
/// The most filters of one DeleteAcls request.
const MAX_FILTERS: usize = 1_000;
/// Bytes of an answer that an ACL takes beside its texts.
const ACL_BYTES: usize = 32;

/// Checks that the client may read or change ACLs, and that they decide anything.
fn check_allowed(context: &RequestContext, operation: AclOperation) -> Result<(), AdminRefusal> {
    context
        .access()
        .check_cluster(operation)
        .map_err(AdminRefusal::from)?;
    match context.client.deps.security.is_authorization_on() {
        true => Ok(()),
        false => Err(AdminRefusal::new(
            SECURITY_DISABLED,
            "authorization is off, so there are no ACLs",
        )),
    }
}

/// Serves DescribeAcls.
pub(super) async fn describe_acls(
    context: RequestContext,
    request: DescribeAclsRequest,
) -> DescribeAclsResponse {
    let described = described_acls(&context, request).await;
    let (error_code, error_message) = result_fields(&described);
    DescribeAclsResponse {
        error_code,
        error_message,
        resources: described.unwrap_or_default(),
        ..DescribeAclsResponse::default()
    }
}

async fn described_acls(
    context: &RequestContext,
    request: DescribeAclsRequest,
) -> Result<Vec<DescribeAclsResource>, AdminRefusal> {
    check_allowed(context, AclOperation::Describe)?;
    let filter = read_filter(DeleteAclsFilter {
        resource_type_filter: request.resource_type_filter,
        resource_name_filter: request.resource_name_filter,
        pattern_type_filter: request.pattern_type_filter,
        principal_filter: request.principal_filter,
        host_filter: request.host_filter,
        operation: request.operation,
        permission_type: request.permission_type,
    });
    let filter = filter.map_err(AdminRefusal::invalid)?;
    catch_up(context).await;
    let view = context.client.deps.security.loaded()?;
    let selected = view.bindings().iter().filter(|binding| filter.matches(binding));
    context
        .reserve_answer(selected.clone().map(answer_bytes).sum())
        .await;
    let mut resources: BTreeMap<(AclResourceType, &str, AclPatternType), Vec<_>> = BTreeMap::new();
    for binding in selected {
        let resource = (binding.resource_type, binding.name.as_str(), binding.pattern);
        let acls = resources.entry(resource).or_default();
        acls.push(DescribeAclsAclDescription {
            principal: binding.principal.to_string(),
            host: binding.host.to_string(),
            operation: binding.operation.code(),
            permission_type: binding.permission.code(),
        });
    }
    let resources = resources.into_iter();
    let described = resources.map(|((resource_type, name, pattern), acls)| DescribeAclsResource {
        resource_type: resource_type.code(),
        resource_name: name.to_owned(),
        pattern_type: pattern.code(),
        acls,
    });
    Ok(described.collect())
}

fn answer_bytes(binding: &AclBinding) -> usize {
    ACL_BYTES + binding.name.len() + binding.principal.name().len()
}

fn read_filter(filter: DeleteAclsFilter) -> Result<AclFilter, AclError> {
    Ok(AclFilter {
        resource_type: AclResourceType::filter_from_code(filter.resource_type_filter)?,
        name: filter.resource_name_filter,
        pattern: AclPatternFilter::from_code(filter.pattern_type_filter)?,
        principal: filter.principal_filter,
        host: filter.host_filter,
        operation: AclOperation::filter_from_code(filter.operation)?,
        permission: AclPermission::filter_from_code(filter.permission_type)?,
    })
}

/// Serves CreateAcls.
pub(super) async fn create_acls(context: RequestContext, request: CreateAclsRequest) -> CreateAclsResponse {
    let mut results: Vec<Result<AclRow, AdminRefusal>> = match check_allowed(&context, AclOperation::Alter) {
        Ok(()) => request.creations.into_iter().map(new_row).collect(),
        Err(refusal) => vec![Err(refusal); request.creations.len()],
    };
    let rows: Vec<AclRow> = results.iter().flatten().cloned().collect();
    if !rows.is_empty()
        && let Err(refusal) = store_rows(&context, &rows).await
    {
        fail_valid(&mut results, &refusal);
    }
    let results = results.iter().map(|result| {
        let (error_code, error_message) = result_fields(result);
        CreateAclsAclCreationResult {
            error_code,
            error_message,
        }
    });
    CreateAclsResponse {
        results: results.collect(),
        ..CreateAclsResponse::default()
    }
}

fn new_row(creation: CreateAclsAclCreation) -> Result<AclRow, AdminRefusal> {
    let binding = read_binding(creation).map_err(AdminRefusal::invalid)?;
    let row = AclRow::from(&binding);
    if row.resource_name.len() > MAX_SECURITY_NAME_BYTES || row.principal.len() > MAX_SECURITY_PRINCIPAL_BYTES
    {
        return Err(AdminRefusal::invalid(format!(
            "a name of an ACL is longer than {MAX_SECURITY_NAME_BYTES} bytes"
        )));
    }
    Ok(row)
}

fn read_binding(creation: CreateAclsAclCreation) -> Result<AclBinding, AclError> {
    let binding = AclBinding {
        resource_type: AclResourceType::from_code(creation.resource_type)?,
        name: creation.resource_name,
        pattern: AclPatternType::from_code(creation.resource_pattern_type)?,
        principal: creation.principal.parse()?,
        host: creation.host.parse()?,
        operation: AclOperation::from_code(creation.operation)?,
        permission: AclPermission::from_code(creation.permission_type)?,
    };
    binding.validate()?;
    Ok(binding)
}

async fn store_rows(context: &RequestContext, rows: &[AclRow]) -> Result<(), AdminRefusal> {
    context.client.deps.metadata.create_acls(rows).await?;
    let by = context.access().principal();
    tracing::info!(%by, acls = rows.len(), "ACLs created");
    catch_up(context).await;
    Ok(())
}

/// Serves DeleteAcls.
pub(super) async fn delete_acls(context: RequestContext, request: DeleteAclsRequest) -> DeleteAclsResponse {
    let filters = request.filters.len();
    let deleted = deleted_acls(&context, request.filters).await;
    DeleteAclsResponse {
        filter_results: deleted.unwrap_or_else(|refusal| vec![filter_result(Err(refusal)); filters]),
        ..DeleteAclsResponse::default()
    }
}

/// Deletes what filters select. Returns the result of each filter.
async fn deleted_acls(
    context: &RequestContext,
    filters: Vec<DeleteAclsFilter>,
) -> Result<Vec<DeleteAclsFilterResult>, AdminRefusal> {
    check_allowed(context, AclOperation::Alter)?;
    if filters.len() > MAX_FILTERS {
        return Err(AdminRefusal::invalid(format!(
            "a request has at most {MAX_FILTERS} filters"
        )));
    }
    catch_up(context).await;
    let view = context.client.deps.security.loaded()?;
    let bindings = view.bindings();
    let mut left = MAX_ACLS;
    let mut results = Vec::with_capacity(filters.len());
    for filter in filters {
        let filter = read_filter(filter).map_err(AdminRefusal::invalid);
        let selected = filter.and_then(|filter| select(bindings, &filter, &mut left));
        results.push(selected);
        tokio::task::yield_now().await;
    }
    let selected = results.iter().flatten().flatten().copied();
    // Before anything is deleted: what is deleted is also answered.
    context
        .reserve_answer(selected.clone().map(answer_bytes).sum())
        .await;
    delete_bindings(context, selected.collect()).await?;
    Ok(results.into_iter().map(filter_result).collect())
}

/// Returns the ACLs that a filter selects, if there is room for them in the answer.
fn select<'a>(
    bindings: &'a [AclBinding],
    filter: &AclFilter,
    left: &mut usize,
) -> Result<Vec<&'a AclBinding>, AdminRefusal> {
    let selected = bindings.iter().filter(|binding| filter.matches(binding));
    let selected: Vec<&AclBinding> = selected.take(left.saturating_add(1)).collect();
    *left = left
        .checked_sub(selected.len())
        .ok_or_else(|| AdminRefusal::invalid("the filters of the request select too many ACLs"))?;
    Ok(selected)
}

async fn delete_bindings(
    context: &RequestContext,
    bindings: BTreeSet<&AclBinding>,
) -> Result<(), AdminRefusal> {
    if bindings.is_empty() {
        return Ok(());
    }
    let bindings = Vec::from_iter(bindings);
    for chunk in bindings.chunks(MAX_SECURITY_CHANGES) {
        let rows: Vec<AclRow> = chunk.iter().copied().map(AclRow::from).collect();
        context.client.deps.metadata.delete_acls(&rows).await?;
    }
    let by = context.access().principal();
    tracing::info!(%by, acls = bindings.len(), "ACLs deleted");
    catch_up(context).await;
    Ok(())
}

fn filter_result(selected: Result<Vec<&AclBinding>, AdminRefusal>) -> DeleteAclsFilterResult {
    let (error_code, error_message) = result_fields(&selected);
    let selected = selected.unwrap_or_default().into_iter();
    DeleteAclsFilterResult {
        error_code,
        error_message,
        matching_acls: selected.map(matching_acl).collect(),
    }
}

fn matching_acl(binding: &AclBinding) -> DeleteAclsMatchingAcl {
    DeleteAclsMatchingAcl {
        resource_type: binding.resource_type.code(),
        resource_name: binding.name.clone(),
        pattern_type: binding.pattern.code(),
        principal: binding.principal.to_string(),
        host: binding.host.to_string(),
        operation: binding.operation.code(),
        permission_type: binding.permission.code(),
        ..DeleteAclsMatchingAcl::default()
    }
}
