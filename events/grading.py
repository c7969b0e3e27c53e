"""What every edge checks of a grader's description before anything is queued for it, beyond what the description alone
can tell. Knows nothing of what graders do.
"""

from typing import Any

from rekindle.types import InvalidField, rewards


def check_grader(spec: rewards.Grader, place: str = "grader") -> None:
    """Raises InvalidField that names a field under `place`. May take a while: not for the event loop."""
    if isinstance(spec, rewards.Weighted):
        for index, part in enumerate(spec.params.graders):
            check_grader(part.grader, f"{place}.params.graders[{index}].grader")
    if isinstance(spec, rewards.JsonSchema):
        _check_schema(spec.params.json_schema, f"{place}.params.schema")


def _check_schema(schema: dict[str, Any] | bool, field: str) -> None:
    """Raises InvalidField if it is no JSON schema."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    draft = schema.get("$schema", "") if isinstance(schema, dict) else ""
    if not isinstance(draft, str):
        raise InvalidField(
            field, f"no JSON schema: $['$schema'] is a {type(draft).__name__}, expected a text"
        )
    try:
        validator_for(schema, Draft202012Validator).check_schema(schema)  # type: ignore[arg-type]
    except SchemaError as error:
        raise InvalidField(field, f"no JSON schema: {error.json_path}: {error.message}") from error
    except RecursionError as error:
        raise InvalidField(field, "nested too deep") from error
    except ValueError as error:  # of what takes `$schema` apart
        raise InvalidField(field, f"no JSON schema: {error}") from error
