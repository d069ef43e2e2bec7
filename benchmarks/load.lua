-- For wrk: requests from the files of a folder, in turn; see load.py. The last argument is the folder.
local requests, turn = {}, 0

function init(args)
  local head = io.open(args[1] .. "/head", "rb")
  local path, count = head:read("*l"), tonumber(head:read("*l"))
  local headers = {}
  for line in head:lines() do
    local name, value = line:match("^(.-): (.*)$")
    headers[name] = value
  end
  for i = 0, count - 1 do
    local file = io.open(args[1] .. "/" .. i, "rb")
    requests[i] = wrk.format("POST", path, headers, file:read("*a"))
    file:close()
  end
end

function request()
  turn = (turn + 1) % (#requests + 1)
  return requests[turn]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "errors": %d, "p50_ms": %.4f, "p99_ms": %.4f}\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
