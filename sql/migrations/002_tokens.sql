-- Tokens that canopy token mint issued, and those that were revoked, whoever issued them.
--
-- No token is in here, only its id (the claim jti): who reads these tables can revoke nothing and sign
-- nothing. The services need to read revoked_tokens and revocation_head and nothing else; issued_tokens is
-- for whoever mints, lists and revokes, through issue_token and revoke_token.

create table canopy.issued_tokens (
  token_id   text collate "C" not null,
  subject    text not null,
  rooms      jsonb not null,                   -- the claim rooms, as issued
  issued_at  timestamptz not null,
  expires_at timestamptz not null,
  constraint issued_tokens_pkey primary key (token_id),
  constraint issued_tokens_id_valid check (octet_length(token_id) between 1 and 128)
);

create index issued_tokens_by_expiry on canopy.issued_tokens (expires_at);

create table canopy.revoked_tokens (
  token_id   text collate "C" not null,
  version    bigint not null,
  revoked_at timestamptz not null,
  expires_at timestamptz,                      -- null: not known, kept for ever
  constraint revoked_tokens_pkey primary key (token_id),
  constraint revoked_tokens_version_key unique (version),
  constraint revoked_tokens_id_valid check (octet_length(token_id) between 1 and 128)
);

create index revoked_tokens_by_expiry on canopy.revoked_tokens (expires_at);

-- The greatest version given. Its row lock makes the order of versions the order of commits, so that
-- whoever has seen version N has seen every revocation up to N.
create table canopy.revocation_head (
  only_row boolean not null default true,
  version  bigint not null default 0,
  constraint revocation_head_pkey primary key (only_row),
  constraint revocation_head_one_row check (only_row)
);

insert into canopy.revocation_head default values;
