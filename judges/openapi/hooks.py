"""What the settings of schemathesis cannot say."""

import uuid

import schemathesis
from schemathesis.generation import GenerationMode


@schemathesis.hook
def before_call(context, case, kwargs):
    """A key that was used before is answered with what was made then, which may be gone by now. So every valid key is new."""
    is_valid = case.meta is None or case.meta.generation.mode == GenerationMode.POSITIVE
    if is_valid and "idempotency-key" in (case.headers or {}):
        case.headers["idempotency-key"] = uuid.uuid4().hex
