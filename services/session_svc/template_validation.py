"""What a template may say. Every refusal names the field and its limit."""

from __future__ import annotations

import re

from sandbox.session.v1 import session_pb2, template_pb2
from sandbox_rpc.errors import InvalidParameter

from session_svc.requirements import check_requirements
from session_svc.validation import (
    MAX_PROCESSES,
    check_env_vars,
    check_range,
    check_resources,
    check_text,
    is_template_id,
)

_NAME_BYTES = 128
_IMAGE = re.compile(r"[!-~]{1,512}")
_USERS = (1, 65_533)  # neither root nor nobody
_WARM = (0, 100)
_RUNTIMES = {
    word: value for word, value in session_pb2.RuntimeType.Value.items() if word != "unspecified"
}


def check_template(template: template_pb2.Template, template_id: str) -> None:
    """Raises InvalidParameter. `template_id` is the one that it shall have."""
    if not template_id:
        raise InvalidParameter("Field 'id' is required")
    if not is_template_id(template_id):
        raise InvalidParameter(
            "Field 'id' must be 1 to 63 letters, digits, '.', '_' or '-', "
            "the first a letter or a digit"
        )
    if template.id not in ("", template_id):
        raise InvalidParameter(f"Field 'id' must be '{template_id}', as in the path, or absent")
    if not template.name.strip():
        raise InvalidParameter("Field 'name' is required")
    check_text("name", template.name, _NAME_BYTES)
    if not template.image:
        raise InvalidParameter("Field 'image' is required")
    _check_image("image", template.image)
    if template.HasField("base_image"):
        _check_image("base_image", template.base_image)
    check_requirements("pre_installed_packages", template.pre_installed_packages)
    if not template.HasField("default_resources"):
        raise InvalidParameter("Field 'default_resources' is required")
    check_resources("default_resources", template.default_resources)
    _check_security(template.security_context, template.default_resources)
    if template.HasField("runtime_type") and template.runtime_type not in _RUNTIMES.values():
        raise InvalidParameter(f"Field 'runtime_type' must be one of {', '.join(_RUNTIMES)}")
    if template.HasField("warm_pool_size"):
        check_range("warm_pool_size", template.warm_pool_size, *_WARM)
    check_env_vars(template.env_vars)


def _check_security(
    security: template_pb2.SecurityContext, resources: session_pb2.Resources
) -> None:
    if security.HasField("max_processes"):
        check_range("security_context.max_processes", security.max_processes, *MAX_PROCESSES)
        if resources.max_processes > security.max_processes:
            raise InvalidParameter(
                "Field 'default_resources.max_processes' must be at most "
                f"{security.max_processes}, the 'security_context.max_processes'"
            )
    if security.HasField("run_as_user"):
        check_range("security_context.run_as_user", security.run_as_user, *_USERS)


def _check_image(field: str, image: str) -> None:
    if not _IMAGE.fullmatch(image):
        raise InvalidParameter(f"Field '{field}' must be 1 to 512 visible ASCII characters")
