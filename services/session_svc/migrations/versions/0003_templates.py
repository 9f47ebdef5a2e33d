"""The rest of a template, what a session keeps of it, and the template with data packages."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_time = sa.DateTime(timezone=True)

# SQLite adds no column without a constant default; what is there is stamped right after.
_EPOCH = "1970-01-01 00:00:00"
_NO_PACKAGES = '{"packages": []}'

_DATA_PACKAGES = [
    "numpy>=1.26,<3",
    "pandas>=2.2,<4",
    "scipy>=1.12,<2",
    "scikit-learn>=1.4,<2",
    "matplotlib>=3.8,<4",
]


def upgrade() -> None:
    now = datetime.now(UTC)
    with op.batch_alter_table("templates") as table:
        table.add_column(sa.Column("base_image", sa.String()))
        table.add_column(sa.Column("packages", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(
            sa.Column("network_enabled", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        table.add_column(sa.Column("process_limit", sa.Integer()))
        table.add_column(
            sa.Column("run_as_user", sa.Integer(), nullable=False, server_default="1000")
        )
        table.add_column(sa.Column("runtime_type", sa.String(16)))
        table.add_column(
            sa.Column("warm_pool_size", sa.Integer(), nullable=False, server_default="0")
        )
        table.add_column(sa.Column("env_vars", sa.JSON(), nullable=False, server_default="{}"))
        for name in ("created_at", "updated_at"):
            table.add_column(sa.Column(name, _time, nullable=False, server_default=_EPOCH))

    templates = sa.table(
        "templates",
        *(sa.column(name) for name in ("template_id", "name", "image", "cpu", "memory", "disk")),
        sa.column("max_processes"),
        sa.column("packages", sa.JSON()),
        sa.column("created_at", _time),
        sa.column("updated_at", _time),
    )
    op.execute(templates.update().values(created_at=now, updated_at=now))
    op.bulk_insert(
        templates,
        [
            {
                "template_id": "python-datascience",
                "name": "Python, data analysis",
                "image": "sandbox/python-datascience",
                "cpu": "1",
                "memory": "1Gi",
                "disk": "2Gi",
                "max_processes": 128,
                "packages": _DATA_PACKAGES,
                "created_at": now,
                "updated_at": now,
            }
        ],
    )

    with op.batch_alter_table("sessions") as table:
        table.add_column(
            sa.Column("template", sa.JSON(), nullable=False, server_default=_NO_PACKAGES)
        )
        table.add_column(sa.Column("dependencies", sa.JSON(), nullable=False, server_default="[]"))
        table.create_index("ix_sessions_template_id_status", ["template_id", "status"])


def downgrade() -> None:
    with op.batch_alter_table("sessions") as table:
        table.drop_index("ix_sessions_template_id_status")
        for name in ("template", "dependencies"):
            table.drop_column(name)
    op.execute("DELETE FROM templates WHERE template_id = 'python-datascience'")
    with op.batch_alter_table("templates") as table:
        for name in (
            "base_image",
            "packages",
            "network_enabled",
            "process_limit",
            "run_as_user",
            "runtime_type",
            "warm_pool_size",
            "env_vars",
            "created_at",
            "updated_at",
        ):
            table.drop_column(name)
