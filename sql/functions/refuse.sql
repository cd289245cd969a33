-- refuse: raises the refusal of a batch. Errors: always, with the given SQLSTATE; DETAIL is JSON with the
-- operation's timestamp ("op") and the server's clock in Unix milliseconds ("server_time").
create function canopy.refuse(p_sqlstate text, p_ts uuid, p_message text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '%', p_message
    using errcode = p_sqlstate,
          detail = json_build_object('op', p_ts, 'server_time',
                                     floor(extract(epoch from clock_timestamp()) * 1000)::bigint);
end $$;
