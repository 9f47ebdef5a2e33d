-- What the transcoder leaves to do: on the way in, the request id and headers that are
-- not the client's to set; on the way out, the one error body and the success statuses
-- that gRPC has no word for.
--
-- A fault in here sends an answer out unshaped, so tests/edge drives every row of the
-- error table through it and fails on any "script log" line of Envoy's.

local API_ERROR = "type.googleapis.com/sandbox.rpc.v1.ApiError"

-- By the last word of error_code, under `Sandbox.` and `Internal.` alike. Words that end in
-- NotFound are 404.
local STATUS = {
  InvalidParameter = 400,
  Unauthorized = 401,
  Forbidden = 403,
  InvalidExecution = 404,
  StateConflict = 409,
  InternalError = 500,
  ServiceUnavailable = 503,
  TooManyRequestsExection = 503, -- spelled so in the contract
}

-- For a failure without an ApiError, by the HTTP status that the transcoder made of the gRPC
-- code. Texts as in sandbox_rpc/errors.py.
local PLAIN = {
  [400] = { "InvalidParameter", "Invalid parameter", "Correct the named field and send the request again." },
  [401] = { "Unauthorized", "Unauthorized", "Send a valid token as 'Authorization: Bearer TOKEN'." },
  [403] = { "Forbidden", "Forbidden", "Use a token that has this right, or ask the operator for it." },
  [404] = { "NotFound", "Not found", "Check the method and the path of the request." },
  [409] = { "StateConflict", "State conflict", "Read the current state and decide again." },
  [500] = { "InternalError", "Internal error", "Report the request id to the operator." },
  [503] = { "ServiceUnavailable", "Service unavailable", "Try again shortly; if it lasts, see /api/v1/health." },
}

-- 429 RESOURCE_EXHAUSTED, 499 CANCELLED, 501 UNIMPLEMENTED, 504 DEADLINE_EXCEEDED.
local FOLD = { [429] = 503, [499] = 503, [501] = 404, [502] = 503, [504] = 503 }

-- Successes that a service may ask for with the initial metadata `x-http-code`.
local SUCCESS = { ["201"] = true, ["204"] = true, ["307"] = true }

-- Of Envoy's words for a request that the transcoder refused: the part that helps nobody.
local TRANSCODER = " %(%l*_?grpc_json_transcode_failure{%u[%u_]*}%)%."

-- Where the request's side leaves what the answer's side needs.
local METADATA = "sandbox.edge"

local FIELDS = { "error_code", "description", "error_detail", "error_link", "solution" }

local function is_grpc(headers)
  return (headers:get("content-type") or ""):find("application/grpc", 1, true) == 1
end

local function remove_where(headers, matches)
  local found = {}
  for name in pairs(headers) do -- which must not change while it is walked
    if matches(name) then
      found[#found + 1] = name
    end
  end
  for _, name in ipairs(found) do
    headers:remove(name)
  end
end

local function is_grpcs(name)
  return name:find("grpc-", 1, true) == 1
end

local function is_envoys(name)
  return name:find("x-envoy-", 1, true) == 1
end

-- HTTP allows more than gRPC: names of other characters, and any value under a name that ends in
-- -bin. gRPC would fail the whole call for one header that means nothing to us.
local function is_no_metadata(name)
  return not name:find("^:?[%l%d_.-]+$") or name:find("%-bin$") ~= nil
end

-- JSON, only as far as it takes to find values in text that protobuf has printed.

-- The position after the string that starts at `at`.
local function after_string(text, at)
  local i = at + 1
  while true do
    local stop = text:find('["\\]', i)
    if not stop then
      return #text + 1
    end
    if text:byte(stop) == 34 then
      return stop + 1
    end
    i = stop + 2 -- a backslash and what it escapes
  end
end

-- The position after the value that starts at `at`.
local function after_value(text, at)
  local first = text:sub(at, at)
  if first == '"' then
    return after_string(text, at)
  end
  if first ~= "{" and first ~= "[" then
    return text:find("[,%]}%s]", at) or #text + 1
  end
  local depth, i = 0, at
  while true do
    local stop = text:find('["{}%[%]]', i)
    if not stop then
      return #text + 1
    end
    local char = text:sub(stop, stop)
    if char == '"' then
      i = after_string(text, stop)
    else
      depth = depth + ((char == "{" or char == "[") and 1 or -1)
      i = stop + 1
      if depth == 0 then
        return i
      end
    end
  end
end

-- The members of an object: name to value, each as it is printed, quotes included.
local function members(object)
  local found = {}
  local at = object:find('"', 1, true)
  while at do
    local name_end = after_string(object, at)
    local value = object:find("[^%s:]", name_end)
    if not value then
      break
    end
    local value_end = after_value(object, value)
    found[object:sub(at + 1, name_end - 2)] = object:sub(value, value_end - 1)
    at = object:find('"', value_end, true)
  end
  return found
end

-- The objects of an array of objects, until `accept` likes one.
local function first_object(array, accept)
  local at = array:find("{", 1, true)
  while at do
    local stop = after_value(array, at)
    local object = members(array:sub(at, stop - 1))
    if accept(object) then
      return object
    end
    at = array:find("{", stop, true)
  end
end

local function is_api_error(object)
  return object["@type"] == '"' .. API_ERROR .. '"'
end

local function print_error(object)
  local out = {}
  for i, field in ipairs(FIELDS) do
    out[i] = '"' .. field .. '":' .. (object[field] or '""')
  end
  return "{" .. table.concat(out, ",") .. "}"
end

local function status_of(error_code)
  local word = error_code:match("([%a]+)\"?$") or ""
  return STATUS[word] or (word:find("NotFound$") and 404) or 500
end

-- An ApiError for a failure that carries none. What the service said about a fault of ours is
-- not for clients; about a fault of theirs it is the only hint.
local function plain_error(status, message, request_id)
  status = FOLD[status] or (PLAIN[status] and status) or (status < 500 and 400 or 500)
  local word, description, solution = unpack(PLAIN[status])
  if message == '""' then
    message = nil
  end
  if status >= 500 then
    local id = request_id:gsub('["\\]', "\\%0") -- visible ASCII, so this is all there is to escape
    message = '"request ' .. id .. ' failed; the service log has the reason"'
  end
  return {
    error_code = '"Sandbox.' .. word .. '"',
    description = '"' .. description .. '"',
    error_detail = message or '"' .. description .. '"',
    error_link = '"/errors/' .. word:gsub("(%l)(%u)", "%1-%2"):lower() .. '"',
    solution = '"' .. solution .. '"',
  }
end

function envoy_on_request(handle)
  local headers = handle:headers()
  -- x-request-id holds a UUID of Envoy's by now, see early_header_mutation_extensions.
  local wanted = headers:get("x-edge-request-id")
  headers:remove("x-edge-request-id")
  if wanted and #wanted <= 128 and wanted:find("^[\33-\126]+$") then
    headers:replace("x-request-id", wanted)
  end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, "request_id", headers:get("x-request-id") or "")
  metadata:set(METADATA, "method", headers:get(":method"))
  metadata:set(METADATA, "native", is_grpc(headers)) -- the transcoder will make every call gRPC
  headers:remove("x-http-code")
  remove_where(headers, is_envoys)
  if not is_grpc(headers) then
    -- A REST caller has no gRPC framing to speak of; what it says of one would only confuse.
    remove_where(headers, is_grpcs)
    remove_where(headers, is_no_metadata)
  end
end

local function shape_success(handle, headers, code)
  headers:replace(":status", code)
  if code == "201" then
    return
  end
  local body = handle:body(true)
  body:setBytes("")
  headers = handle:headers() -- body() waits, and what was fetched before it is dead after
  headers:remove("content-type")
  if code == "204" then
    headers:remove("content-length")
  else
    headers:replace("content-length", "0")
  end
end

local function replace_body(headers, body, object)
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(body:setBytes(print_error(object))))
end

local function shape_error(handle, headers, noted)
  local status = tonumber(headers:get(":status"))
  if noted.method == "HEAD" then -- has no body, and must not get one
    return
  end
  local body = handle:body(true)
  headers = handle:headers() -- as above
  local text = body:length() > 0 and body:getBytes(0, body:length()) or ""
  local top = members(text)
  if top.error_code then -- Envoy's own answer, shaped by local_reply_config
    local detail, found = top.error_detail:gsub(TRANSCODER, ":", 1)
    if found > 0 then
      top.error_detail = detail
      replace_body(headers, body, top)
    end
    return
  end
  local object = first_object(top.details or "", is_api_error)
    or plain_error(status, top.message, noted.request_id or "")
  status = status_of(object.error_code or "")
  headers:replace(":status", tostring(status))
  replace_body(headers, body, object)
  if status == 503 and not headers:get("retry-after") then
    local trailers = handle:trailers()
    headers:replace("retry-after", trailers and trailers:get("retry-after") or "1")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local code = headers:get("x-http-code")
  headers:remove("x-http-code")
  -- Empty for a request that was refused before it came to envoy_on_request.
  local noted = handle:streamInfo():dynamicMetadata():get(METADATA) or {}
  if noted.native then
    return
  end
  remove_where(headers, is_grpcs)
  local status = headers:get(":status")
  if status == "200" and SUCCESS[code] then
    shape_success(handle, headers, code)
  elseif tonumber(status) >= 400 then
    shape_error(handle, headers, noted)
  end
end
