-- Creates a role for each service. Run it with psql, as a role that may create roles:
--
--   POSTGRES_PASSWORD=… psql -f roles.sql postgres://postgres@db/canopy
--   canopy migrate up --database-url postgres://canopy_owner@db/canopy
--   canopy migrate grant --realtime canopy_realtime --bootstrap canopy_bootstrap --tokens canopy_tokens \
--     --database-url postgres://canopy_owner@db/canopy
--
-- canopy_owner owns the schema. The stored functions run with its rights, so it must not be a superuser. If the
-- services run on different machines, give each role its own password.
\getenv password POSTGRES_PASSWORD
create role canopy_owner login password :'password';
create role canopy_realtime login password :'password';
create role canopy_bootstrap login password :'password';
create role canopy_tokens login password :'password';

select current_database() as database \gset
revoke all on database :"database" from public;
grant connect, create on database :"database" to canopy_owner;
grant connect on database :"database" to canopy_realtime, canopy_bootstrap, canopy_tokens;
